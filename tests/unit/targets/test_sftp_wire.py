"""The parser ends in a value or a ProtocolError for all that a daemon may send, and loses nothing between pieces."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.worker.targets.sftp import wire
from longshore.worker.targets.sftp.wire import Answer, Kind, PacketBuffer, ProtocolError

PARSERS = [wire.parse_attributes, wire.parse_status, wire.parse_string, wire.parse_version]


def packet(kind: int, request: int, body: bytes) -> bytes:
    return struct.pack(">IBI", 5 + len(body), kind, request) + body


answers = st.builds(
    Answer,
    kind=st.sampled_from([Kind.STATUS, Kind.HANDLE, Kind.DATA, Kind.ATTRS, 7, 255]),
    request=st.integers(0, 2**32 - 1),
    body=st.binary(max_size=200),
)


@given(st.lists(answers, max_size=8), st.lists(st.integers(1, 50), min_size=1))
def test_packets_come_out_as_they_went_in_however_they_are_cut(sent: list[Answer], cuts: list[int]) -> None:
    stream = b"".join(packet(a.kind, a.request, a.body) for a in sent)
    buffer, received, at, turn = PacketBuffer(), [], 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        buffer.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
        while (answer := buffer.next()) is not None:
            received.append(answer)
    assert received == sent


@given(st.binary(max_size=400))
def test_any_bytes_are_packets_or_an_error_or_incomplete(data: bytes) -> None:
    buffer = PacketBuffer()
    buffer.feed(data)
    taken = 0
    try:
        while (answer := buffer.next()) is not None:
            taken += 5 + len(answer.body) + (0 if answer.kind == Kind.VERSION else 4)
            assert taken <= len(data)
    except ProtocolError:
        return


@given(st.integers(0, 2**32 - 1))
def test_a_length_beyond_the_limit_is_refused_before_its_bytes_are_waited_for(length: int) -> None:
    buffer = PacketBuffer()
    buffer.feed(struct.pack(">I", length))
    if 5 <= length <= wire.MAX_PACKET:
        assert buffer.next() is None
    else:
        with pytest.raises(ProtocolError):
            buffer.next()


@pytest.mark.parametrize("parse", PARSERS)
@given(body=st.binary(max_size=300))
def test_bodies_of_any_bytes_are_parsed_or_refused(parse: object, body: bytes) -> None:
    assert callable(parse)
    try:
        parse(body)
    except ProtocolError:
        return


@given(
    size=st.none() | st.integers(0, 2**64 - 1),
    owner=st.none() | st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    mode=st.none() | st.integers(0, 2**32 - 1),
    times=st.booleans(),
)
def test_attributes_in_every_combination(
    size: int | None, owner: tuple[int, int] | None, mode: int | None, times: bool
) -> None:
    flags = (size is not None) | (owner is not None) << 1 | (mode is not None) << 2 | times << 3
    body = struct.pack(">I", flags)
    body += struct.pack(">Q", size) if size is not None else b""
    body += struct.pack(">II", *owner) if owner is not None else b""
    body += struct.pack(">I", mode) if mode is not None else b""
    body += bytes(8) if times else b""
    uid, gid = owner or (None, None)
    assert wire.parse_attributes(body) == wire.WireAttributes(size, uid, gid, mode)
    if len(body) > 4:
        with pytest.raises(ProtocolError):
            wire.parse_attributes(body[:-1])


def test_status_without_words_is_taken() -> None:
    assert wire.parse_status(struct.pack(">I", 4)) == (4, "")
    assert wire.parse_status(struct.pack(">I", 4) + wire.string(b"caf\xff")) == (4, "caf\ufffd")


def test_owner_and_mode_never_go_in_one_packet() -> None:
    with pytest.raises(ValueError, match="two packets"):
        wire.attributes(mode=0o644, owner=(1, 2))


def test_requests_are_as_the_draft_says() -> None:
    assert wire.hello() == b"\0\0\0\x05\x01\0\0\0\x03"
    assert wire.header(Kind.CLOSE, 7, 5) + wire.string(b"h") == b"\0\0\0\x0a\x04\0\0\0\x07\0\0\0\x01h"
