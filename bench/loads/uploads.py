"""This process makes the uploads of the rows about uploads.

    python -m bench.loads.uploads raw|small|submit|client ADDRESS TOKEN_FILE SIZE COUNT AT_ONCE

For each line on its input it makes COUNT uploads of SIZE bytes, AT_ONCE at once, and says the seconds up to the last
answer.

`raw`: a lean sender. What it sends is serialized beforehand, as Go's sender has its body in memory: the figure is the
server's. At most four uploads go on one connection. `small`: header, chunk and finish are three messages, sent without
waiting for the go-ahead in between, all on one connection. `submit`: the same files, each with its submission, over one
stream of AsyncClient. `client`: files as users upload them, with AsyncClient, from a file in the page cache.

No worker takes any of these pushes. The allocator is set up as the server's is; what is measured as ours is the whole
process, as it is for the other senders.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import google_crc32c
import grpc.aio
import uvloop

from bench.support.processes import answer
from longshore.client import AsyncClient, Submission, push_spec
from longshore.server.process.malloc import tune_malloc
from longshore.v1 import task_service_pb2 as pb

CHUNK: Final = 1 << 20
METHOD: Final = "/longshore.v1.TaskService/Upload"
PER_CONNECTION: Final = 4
RUN: Final = secrets.token_hex(8)

Once = Callable[[], Awaitable[object]]
"""Makes all uploads of one round."""


def header(number: int, size: int) -> bytes:
    """Make the header of a push into one of a thousand instances, and to a file of its own there."""
    spec = push_spec(f"bench-{number % 1000}/{RUN}/{number}")
    made = pb.UploadHeader(request_id=f"{RUN}-{number}", spec=spec, size=size)
    return pb.UploadRequest(header=made).SerializeToString()


def frames(size: int) -> Sequence[bytes]:
    """An upload but for its header: chunks whose bytes differ from one to the next, and the finish."""
    made, crc = [], 0
    for offset in range(0, size, CHUNK):
        data = bytes([offset // CHUNK % 251]) * min(CHUNK, size - offset)
        made.append(chunk_frame(offset, data))
        crc = google_crc32c.extend(crc, data)
    return (*made, pb.UploadRequest(finish=pb.UploadFinish(size=size, crc32c=crc)).SerializeToString())


def chunk_frame(offset: int, data: bytes) -> bytes:
    """An UploadRequest with one chunk, in the shape in which AsyncClient serializes it: every field is there."""
    # Tags: offset = 1 (fixed64), crc32c = 2 (fixed32), data = 3 (bytes); chunk = 2 (message).
    inner = struct.pack("<BQBIB", 0x09, offset, 0x15, google_crc32c.value(data), 0x1A) + _varint(len(data))
    return b"".join((b"\x12", _varint(len(inner) + len(data)), inner, data))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def who(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def channel_to(address: str) -> grpc.aio.Channel:
    """A connection of its own."""
    return grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


def upload_on(channel: grpc.aio.Channel) -> Any:
    return channel.stream_unary(METHOD, request_serializer=None, response_deserializer=pb.UploadResponse.FromString)


def checked(response: pb.UploadResponse) -> None:
    if len(response.tasks) != 1:
        raise AssertionError(f"{len(response.tasks)} tasks")


@asynccontextmanager
async def raw(address: str, token: str, size: int, count: int, at_once: int) -> AsyncIterator[Once]:
    rest, numbers = frames(size), itertools.count()
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(channel_to(address)) for _ in range(-(-at_once // PER_CONNECTION))]
        for channel in channels:
            await channel.channel_ready()
        uploads = [upload_on(channel) for channel in channels]

        async def send(place: int, headers: Iterator[bytes]) -> None:
            for first in headers:
                call = uploads[place // PER_CONNECTION](metadata=who(token))
                await call.write(first)
                for frame in rest:
                    await call.write(frame)
                await call.done_writing()
                checked(await call)

        async def once() -> None:
            headers = iter([header(next(numbers), size) for _ in range(count)])
            await asyncio.gather(*(send(place, headers) for place in range(at_once)))

        yield once


@asynccontextmanager
async def small(address: str, token: str, size: int, count: int, at_once: int) -> AsyncIterator[Once]:
    rest, numbers = frames(size), itertools.count()
    async with channel_to(address) as channel:
        await channel.channel_ready()
        upload = upload_on(channel)

        async def send(headers: Iterator[bytes]) -> None:
            for first in headers:
                checked(await upload(iter((first, *rest)), metadata=who(token)))

        async def once() -> None:
            headers = iter([header(next(numbers), size) for _ in range(count)])
            await asyncio.gather(*(send(headers) for _ in range(at_once)))

        yield once


@asynccontextmanager
async def submit(address: str, token: str, size: int, count: int, at_once: int) -> AsyncIterator[Once]:
    content, numbers = (bytes(range(256)) * -(-size // 256))[:size], itertools.count()
    async with AsyncClient(server=address, token=token) as client:

        async def once() -> None:
            submissions = [
                Submission(
                    spec=push_spec(f"bench-{number % 1000}/{RUN}/{number}"),
                    content=content,
                    request_id=f"{RUN}-{number}",
                )
                for number in itertools.islice(numbers, count)
            ]
            async for one in client.submit_many(submissions, at_once=at_once):
                if one.error is not None:
                    raise one.error

        yield once


@asynccontextmanager
async def client(address: str, token: str, size: int, count: int, at_once: int) -> AsyncIterator[Once]:
    with tempfile.NamedTemporaryFile() as file:
        for number in range(-(-size // CHUNK)):
            file.write(bytes([number % 251]) * CHUNK)
        file.truncate(size)
        file.flush()
        async with AsyncClient(server=address, token=token) as one:

            async def once() -> None:
                destinations = iter([f"bench-{secrets.token_hex(12)}/content" for _ in range(count)])

                async def send() -> None:
                    for destination in destinations:
                        await one.upload(file.name, spec=push_spec(destination))

                await asyncio.gather(*(send() for _ in range(at_once)))

            yield once


HOWS: Final = {"raw": raw, "small": small, "submit": submit, "client": client}


async def main(how: str, address: str, token: str, size: int, count: int, at_once: int) -> None:
    async with HOWS[how](address, token, size, count, at_once) as once:
        answer("ready")
        while await asyncio.to_thread(sys.stdin.readline):
            began = time.perf_counter()
            await once()
            answer(time.perf_counter() - began)


if __name__ == "__main__":
    tune_malloc()
    uvloop.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_text().strip(), *map(int, sys.argv[4:7])))
