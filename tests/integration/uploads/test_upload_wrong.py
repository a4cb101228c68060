"""P2: wrong bytes, wrong order, wrong messages: refused with a reason, no task, no sealed payload."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from longshore.server.engine.uploads.uploads import UploadLimits
from longshore.v1 import task_service_pb2 as pb
from tests.support.servers.rawgrpc import (
    MIB,
    Sender,
    TaskServer,
    chunk,
    chunks,
    crc,
    finish,
    header_of,
    opening,
    push_spec,
    refused,
    whole,
)

CONTENT = bytes(range(256)) * (2 * MIB // 256) + b"tail"
SHA256 = hashlib.sha256(CONTENT).digest()


@pytest.fixture(params=[0, 64 * 1024], ids=["spool", "inline"])
async def server(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[TaskServer]:
    async with TaskServer(tmp_path, limits=UploadLimits(inline_bytes=request.param)) as server:
        yield server


OPEN = opening(header_of())
FIRST, SECOND, THIRD = chunks(CONTENT)

VIOLATIONS: list[tuple[str, list[pb.UploadRequest], str]] = [
    ("chunk before header", [FIRST], "PROTOCOL_VIOLATION"),
    ("finish before header", [finish(b"")], "PROTOCOL_VIOLATION"),
    ("empty message first", [pb.UploadRequest()], "PROTOCOL_VIOLATION"),
    ("two headers", [OPEN, OPEN, FIRST], "PROTOCOL_VIOLATION"),
    ("header between chunks", [OPEN, FIRST, OPEN], "PROTOCOL_VIOLATION"),
    ("empty message", [OPEN, FIRST, pb.UploadRequest()], "PROTOCOL_VIOLATION"),
    (
        "bytes after finish",
        [OPEN, FIRST, SECOND, THIRD, finish(CONTENT), chunk(len(CONTENT), b"x")],
        "PROTOCOL_VIOLATION",
    ),
    ("two finishes", [OPEN, FIRST, SECOND, THIRD, finish(CONTENT), finish(CONTENT)], "PROTOCOL_VIOLATION"),
    ("crc of a chunk", [OPEN, FIRST, chunk(MIB, CONTENT[MIB:], wrong=1)], "CRC_MISMATCH"),
    ("gap", [OPEN, FIRST, THIRD], "CHUNK_OUT_OF_ORDER"),
    ("twice", [OPEN, FIRST, FIRST], "CHUNK_OUT_OF_ORDER"),
    ("overlap", [OPEN, FIRST, chunk(MIB - 1, b"xx")], "CHUNK_OUT_OF_ORDER"),
    ("not from the start", [OPEN, SECOND], "CHUNK_OUT_OF_ORDER"),
    ("empty chunk", [OPEN, chunk(0, b"")], "INVALID_FIELD"),
    ("huge chunk", [OPEN, chunk(0, bytes(2 * MIB + 1))], "INVALID_FIELD"),
    ("more than declared", [opening(header_of(size=MIB)), FIRST, SECOND], "SIZE_MISMATCH"),
    ("no field right", [opening(pb.UploadHeader(request_id="r1"))], "INVALID_FIELD"),
]

LIES: list[tuple[str, list[pb.UploadRequest], str]] = [
    ("crc of the whole", [OPEN, FIRST, SECOND, THIRD, finish(CONTENT, wrong=1)], "CRC_MISMATCH"),
    ("too small a size", [OPEN, FIRST, SECOND, THIRD, finish(CONTENT, size=5)], "SIZE_MISMATCH"),
    ("too large a size", [OPEN, FIRST, SECOND, finish(CONTENT)], "SIZE_MISMATCH"),
    ("less than declared", [opening(header_of(size=len(CONTENT))), FIRST, finish(CONTENT[:MIB])], "SIZE_MISMATCH"),
    ("sha-256", [opening(header_of(sha256=bytes(32))), FIRST, SECOND, THIRD, finish(CONTENT)], "SHA256_MISMATCH"),
]


async def sent(server: TaskServer, messages: list[pb.UploadRequest]) -> pb.UploadResponse:
    """One message after the other; the first that is refused ends it."""
    call = Sender(server, header_of()).call
    try:
        for message in messages:
            await call.write(message)
        await call.done_writing()
    except grpc.aio.AioRpcError:
        pass  # refused already: the call says why
    return await call


@pytest.mark.parametrize(("messages", "reason"), [one[1:] for one in VIOLATIONS + LIES], ids=[
    one[0] for one in VIOLATIONS + LIES
])  # fmt: skip
async def test_a_wrong_upload_is_refused_and_leaves_nothing(
    server: TaskServer, messages: list[pb.UploadRequest], reason: str
) -> None:
    refusal = await refused(sent(server, messages))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert refusal.has(error_details_pb2.BadRequest) is (reason == "INVALID_FIELD")
    await server.idle()
    assert await server.tasks() == []
    assert server.sealed == []


@pytest.mark.parametrize("messages", [one[1] for one in LIES], ids=[one[0] for one in LIES])
async def test_after_a_lie_the_same_request_starts_anew_from_nothing(
    server: TaskServer, messages: list[pb.UploadRequest]
) -> None:
    await refused(sent(server, messages))
    await server.idle()
    assert (await refused(server.get("r1"))).reason == "NOT_FOUND"
    header = header_of(size=len(CONTENT), sha256=SHA256)
    sender = Sender(server, header)
    assert await sender.begin() == 0
    await sender.send(*chunks(CONTENT), finish(CONTENT))
    assert len((await sender.end()).tasks) == 1


async def test_after_a_bad_chunk_the_good_ones_are_kept(server: TaskServer) -> None:
    await refused(sent(server, [OPEN, FIRST, chunk(MIB, b"xyz", wrong=1)]))
    await server.idle()
    assert (await server.get("r1")).offset == MIB
    sender = Sender(server, header_of())
    assert await sender.begin() == MIB
    await sender.send(SECOND, THIRD, finish(CONTENT))
    assert (await sender.end()).payload.crc32c == crc(CONTENT)


@pytest.mark.parametrize("inline", [0, 8 * MIB], ids=["spool", "inline"])
@pytest.mark.parametrize("cut", [False, True], ids=["in one go", "resumed"])
async def test_a_true_sha256_is_kept_with_the_payload(tmp_path: Path, inline: int, cut: bool) -> None:
    async with TaskServer(tmp_path, limits=UploadLimits(inline_bytes=inline)) as server:
        header = header_of(size=len(CONTENT), sha256=SHA256)
        if cut:
            sender = Sender(server, header)
            await sender.begin()
            await sender.send(FIRST)
            await refused(sender.end())
            await server.idle()
        answer = await server.upload(whole(header, CONTENT))
        assert (answer.payload.size, answer.payload.crc32c, answer.payload.sha256) == (
            len(CONTENT),
            crc(CONTENT),
            SHA256,
        )
        (task,) = await server.tasks()
        assert task.submission.payload is not None
        if inline:
            assert server.sealed == []
            assert await server.store.inline_payload(answer.payload.id) == CONTENT
        else:
            assert server.sealed[0].read_bytes() == CONTENT
            assert await server.store.inline_payload(answer.payload.id) is None


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 65536, b"x" * 65537])
async def test_small_files_travel_too(tmp_path: Path, content: bytes) -> None:
    async with TaskServer(tmp_path, limits=UploadLimits()) as server:
        answer = await server.upload(whole(header_of(spec=push_spec("a", "b")), content))
        assert [task.file_push.destination.instance for task in answer.tasks] == ["a", "b"]
        kept = await server.store.inline_payload(answer.payload.id)
        if len(content) > 65536:
            kept = server.sealed[0].read_bytes()
        assert kept == content
