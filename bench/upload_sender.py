"""This lean process sends uploads to a Longshore server for the rows `upload` and `uploads16`.

    python -m bench.upload_sender ADDRESS TOKEN_FILE SIZE COUNT

It prints `ready`. For each line on stdin it makes COUNT uploads of SIZE bytes at once, and prints the seconds up to the
last answer. What it sends is serialized beforehand, as Go's sender has its body in memory: the figure is the
server's. Its allocator is set up as the server's is; ours is the whole process, as it is for that sender.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import google_crc32c
import grpc.aio
import uvloop

from longshore.client import push_spec
from longshore.client.transfer.frames import chunk_frame
from longshore.server.process.malloc import tune_malloc
from longshore.v1 import task_service_pb2 as pb

CHUNK: Final = 1 << 20
METHOD: Final = "/longshore.v1.TaskService/Upload"
PER_CONNECTION: Final = 4
"""Uploads on one connection at most."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An upload but for its header."""

    size: int
    frames: Sequence[bytes]

    @classmethod
    def of(cls, size: int) -> Prepared:
        """Bytes that differ from chunk to chunk."""
        frames, crc = [], 0
        for offset in range(0, size, CHUNK):
            data = bytes([offset // CHUNK % 251]) * min(CHUNK, size - offset)
            frames.append(chunk_frame(offset, data))
            crc = google_crc32c.extend(crc, data)
        finish = pb.UploadRequest(finish=pb.UploadFinish(size=size, crc32c=crc))
        return cls(size, (*frames, finish.SerializeToString()))


def header(size: int) -> bytes:
    """Make the header of a push that no worker takes, into an instance that no other push has."""
    name = f"bench-{secrets.token_hex(12)}"
    made = pb.UploadHeader(request_id=name, spec=push_spec(f"{name}/content"), size=size)
    return pb.UploadRequest(header=made).SerializeToString()


async def send(upload: Any, prepared: Prepared, who: Sequence[tuple[str, str]]) -> None:
    """One upload; raises what the server says against it."""
    call = upload(metadata=who)
    await call.write(header(prepared.size))
    for frame in prepared.frames:
        await call.write(frame)
    await call.done_writing()
    answer = await call
    if len(answer.tasks) != 1:
        raise AssertionError(f"{len(answer.tasks)} tasks")


async def main(address: str, token: str, size: int, count: int) -> None:
    prepared = Prepared.of(size)
    who = (("authorization", f"Bearer {token}"),)
    channels = [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(-(-count // PER_CONNECTION))
    ]
    for channel in channels:
        await channel.channel_ready()
    uploads: list[Any] = [
        channel.stream_unary(METHOD, request_serializer=None, response_deserializer=pb.UploadResponse.FromString)
        for channel in channels
    ]
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        began = time.perf_counter()
        await asyncio.gather(*(send(uploads[each // PER_CONNECTION], prepared, who) for each in range(count)))
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    tune_malloc()
    uvloop.run(main(sys.argv[1], Path(sys.argv[2]).read_text().strip(), int(sys.argv[3]), int(sys.argv[4])))
