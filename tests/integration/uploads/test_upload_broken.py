"""P2: an upload broken in any way is no task. The server sees each of these as the normal end of the stream."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from longshore.v1 import task_service_pb2 as pb
from tests.support.servers.rawgrpc import (
    LARGEST_MESSAGE,
    MIB,
    TOKEN,
    Sender,
    TaskServer,
    chunk,
    chunks,
    crc,
    finish,
    header_of,
    opening,
    refused,
    whole,
)
from tests.support.waiting import until

CONTENT = bytes(range(256)) * (3 * MIB // 256) + b"tail"

Breaker = Callable[[TaskServer], Awaitable[None]]


def received(server: TaskServer, *, times: int = 1) -> Callable[[], bool]:
    return lambda: server.uploads.statistics().bytes_received >= times * len(CONTENT)


async def oversized_frame(server: TaskServer) -> None:
    sender = Sender(server, header_of())
    await sender.begin()
    await sender.send(*chunks(CONTENT))
    await until(received(server))
    await sender.call.write(chunk(len(CONTENT), bytes(LARGEST_MESSAGE + 1)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sender.end()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def iterator_raises(server: TaskServer) -> None:
    async def messages() -> AsyncIterator[pb.UploadRequest]:
        yield opening(header_of())
        for one in chunks(CONTENT):
            yield one
        await until(received(server))
        raise RuntimeError("the file could not be read")

    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await server.upload(messages())


async def deadline(server: TaskServer) -> None:
    sender = Sender(server, header_of(), timeout=2.0)
    await sender.begin()
    await sender.send(*chunks(CONTENT))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sender.call
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert received(server)()


async def cancel(server: TaskServer) -> None:
    sender = Sender(server, header_of())
    await sender.begin()
    await sender.send(*chunks(CONTENT))
    await until(received(server))
    sender.call.cancel()


ROOT = Path(__file__).resolve().parents[3]

CLIENT = f"""
import sys
import grpc
from longshore.v1 import task_service_pb2 as pb, task_service_pb2_grpc as pb_grpc
from tests.support.servers.rawgrpc import chunks, header_of, opening
from tests.integration.uploads.test_upload_broken import CONTENT

def messages():
    yield opening(header_of())
    yield from chunks(CONTENT)
    print("sent", flush=True)
    sys.stdin.read()

with grpc.insecure_channel(sys.argv[1]) as channel:
    pb_grpc.TaskServiceStub(channel).Upload(messages(), metadata=[("authorization", "Bearer {TOKEN}")])
"""


async def kill(server: TaskServer) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CLIENT,
        server.address,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"sent\n"
        await until(received(server))
    finally:
        process.kill()
        await process.wait()


async def clean_end(server: TaskServer) -> None:
    sender = Sender(server, header_of())
    await sender.begin()
    await sender.send(*chunks(CONTENT))
    refusal = await refused(sender.end())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "UPLOAD_BROKEN")


@pytest.mark.parametrize("broken", [oversized_frame, iterator_raises, deadline, cancel, kill, clean_end])
async def test_an_upload_broken_after_its_last_byte_is_no_task(server: TaskServer, broken: Breaker) -> None:
    await broken(server)
    await server.idle()
    assert await server.tasks() == []
    assert server.sealed == []
    # The bytes that arrived are durable, and the same request goes on from there to be one task.
    upload = await server.get("r1")
    assert (upload.complete, upload.active) == (False, False)
    assert (upload.offset, upload.crc32c) == (len(CONTENT), crc(CONTENT))
    sender = Sender(server, header_of())
    assert await sender.begin() == len(CONTENT)
    await sender.send(finish(CONTENT))
    answer = await sender.end()
    assert len(answer.tasks) == 1
    (path,) = server.sealed
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("count", [0, 1])
async def test_a_stream_that_ends_at_once_leaves_nothing(server: TaskServer, count: int) -> None:
    """Before the header, and right after it."""
    messages = [opening(header_of())][:count]
    refusal = await refused(server.upload(messages))
    assert refusal.reason == ("UPLOAD_BROKEN" if count else "PROTOCOL_VIOLATION")
    await server.idle()
    assert await server.tasks() == []
    assert server.sealed == []
    assert server.parts == []


async def test_a_cancel_after_the_finish_is_a_task_or_none_and_never_half_of_one(server: TaskServer) -> None:
    """The finish has proved the bytes: whichever way it goes, the same request then answers with one task."""
    for number in range(20):
        name = f"r{number}"
        call = server.upload(whole(header_of(name), CONTENT))
        await call.initial_metadata()
        await until(received(server, times=number + 1))
        for _ in range(number):
            await asyncio.sleep(0)  # a few steps of the server later each time
        call.cancel()
        await server.idle()
        sender = Sender(server, header_of(name))
        offset = await sender.begin()
        await sender.send(*chunks(CONTENT, start=offset), finish(CONTENT))
        answer = await sender.end()
        assert len(answer.tasks) == 1
    assert len(await server.tasks()) == len(server.sealed) == 20
