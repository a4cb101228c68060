"""A chunk taken apart by hand is what protobuf would have read, whatever arrives."""

from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf.message import DecodeError

from longshore.client.transfer.frames import chunk_frame
from longshore.server.edge.messages import chunks
from longshore.v1 import task_service_pb2 as pb

SIZES = (1, 2, 105, 106, 107, 108, 109, 110, 111, 112, 113, 127, 128, 16_383, 16_384, 70_000, (1 << 20) - 1, 2 << 20)


def normal(read: Any) -> Any:
    """Return the protobuf message, whichever way it was read."""
    if isinstance(read, chunks.Chunk):
        return pb.UploadRequest(
            chunk=pb.UploadChunk(offset=read.offset, crc32c=read.crc32c, data=read.message[read.start :])
        )
    return read


def outcome(parse: Any, message: bytes) -> Any:
    try:
        return normal(parse(message))
    except DecodeError:
        return DecodeError


@pytest.mark.parametrize("size", SIZES)
def test_the_chunks_of_our_client_do_without_protobuf(size: int) -> None:
    data = random.Random(size).randbytes(size)
    message = chunk_frame(1 << 40, data)
    found = chunks.parse(message)
    assert isinstance(found, chunks.Chunk)
    assert normal(found) == pb.UploadRequest.FromString(message)
    assert found.message[found.start :] == data


def test_the_chunks_of_generated_stubs_do_without_protobuf_but_for_fields_that_are_zero() -> None:
    made = pb.UploadRequest(chunk=pb.UploadChunk(offset=7, crc32c=9, data=b"abc"))
    assert isinstance(chunks.parse(made.SerializeToString()), chunks.Chunk)
    for field in ("offset", "crc32c", "data"):
        other = pb.UploadRequest()
        other.CopyFrom(made)
        other.chunk.ClearField(field)
        assert chunks.parse(other.SerializeToString()) == other


def test_headers_finishes_and_empty_messages_are_left_to_protobuf() -> None:
    for message in (
        pb.UploadRequest(),
        pb.UploadRequest(header=pb.UploadHeader(request_id="a", size=3)),
        pb.UploadRequest(finish=pb.UploadFinish(size=3, crc32c=1)),
        pb.UploadRequest(chunk=pb.UploadChunk()),
    ):
        assert chunks.parse(message.SerializeToString()) == message


def test_fields_twice_fields_unknown_and_long_lengths_mean_what_they_mean_to_protobuf() -> None:
    whole = chunk_frame(5, b"x" * 300)
    inner = whole[3:]
    finish = pb.UploadRequest(finish=pb.UploadFinish(size=3, crc32c=1)).SerializeToString()
    long_form = b"\x12" + bytes([len(inner) & 0x7F | 0x80, len(inner) >> 7 | 0x80, 0]) + inner
    for message in (
        whole + whole,
        whole + finish,
        finish + whole,
        whole + b"\x78\x01",
        long_form,
        whole[:-1],
        whole + b"x",
    ):
        assert outcome(chunks.parse, message) == outcome(pb.UploadRequest.FromString, message)
    assert not isinstance(chunks.parse(long_form), chunks.Chunk)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_arrives_is_read_as_protobuf_reads_it(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(500):
        size = rng.choice((1, 3, 90, 111, 112, 130, 400, 17_000))
        message = bytearray(chunk_frame(rng.getrandbits(rng.choice((1, 20, 64))), rng.randbytes(size)))
        for _ in range(rng.randrange(4)):
            # Where the framing is, mostly.
            at = rng.randrange(min(len(message), 30) if rng.random() < 0.9 else len(message))
            match rng.randrange(4):
                case 0:
                    message[at] = rng.getrandbits(8)
                case 1:
                    message[at] ^= 1 << rng.randrange(8)
                case 2:
                    del message[at : at + rng.randrange(1, 4)]
                case _:
                    message[at:at] = rng.randbytes(rng.randrange(1, 4))
            if not message:
                break
        given = bytes(message)
        assert outcome(chunks.parse, given) == outcome(pb.UploadRequest.FromString, given)
