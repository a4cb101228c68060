"""This process makes the small uploads of the row `small-uploads`, with the generated stubs.

    python -m bench.upload_small_sender ADDRESS TOKEN_FILE SIZE COUNT AT_ONCE

Prints `ready`; for each line on stdin it makes COUNT uploads of SIZE bytes, AT_ONCE at once, and prints the seconds to
the last answer. Header, chunk and finish are three messages, sent without waiting for the go-ahead in between.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import grpc.aio
import uvloop

from longshore.client import AsyncClient, Submission, push_spec
from longshore.client.transfer.frames import chunk_frame
from longshore.v1 import task_service_pb2 as pb

METHOD = "/longshore.v1.TaskService/Upload"
_RUN = secrets.token_hex(8)


def header(number: int, size: int) -> bytes:
    """Make the header of a push that no worker takes, into one of a thousand instances and a file of its own there."""
    spec = push_spec(f"bench-{number % 1000}/{_RUN}/{number}")
    made = pb.UploadHeader(request_id=f"{_RUN}-{number}", spec=spec, size=size)
    return pb.UploadRequest(header=made).SerializeToString()


async def send(
    upload: Any, headers: Iterator[bytes], rest: tuple[bytes, bytes], who: Sequence[tuple[str, str]]
) -> None:
    """Uploads, one after the other, while there are headers."""
    for first in headers:
        answer = await upload(iter((first, *rest)), metadata=who)
        if len(answer.tasks) != 1:
            raise AssertionError(f"{len(answer.tasks)} tasks")


async def submit(address: str, token: str, size: int, count: int, at_once: int) -> None:
    """The same files, each with its submission, over one stream of our client's."""
    data = (bytes(range(256)) * -(-size // 256))[:size]
    numbers = itertools.count()
    async with AsyncClient(server=address, token=token) as client:
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            destinations = [
                (number, f"bench-{number % 1000}/{_RUN}/{number}") for number in itertools.islice(numbers, count)
            ]
            jobs = [
                Submission(spec=push_spec(destination), content=data, request_id=f"{_RUN}-{number}")
                for number, destination in destinations
            ]
            began = time.perf_counter()
            async for one in client.submit_many(jobs, at_once=at_once):
                if one.error is not None:
                    raise one.error
            print(time.perf_counter() - began, flush=True)


async def main(address: str, token: str, size: int, count: int, at_once: int) -> None:
    data = bytes(range(256)) * -(-size // 256)
    data = data[:size]
    finish = pb.UploadFinish(size=size, crc32c=google_crc32c.value(data))
    rest = chunk_frame(0, data), pb.UploadRequest(finish=finish).SerializeToString()
    who = (("authorization", f"Bearer {token}"),)
    numbers = itertools.count()
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        upload: Any = channel.stream_unary(
            METHOD, request_serializer=None, response_deserializer=pb.UploadResponse.FromString
        )
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            headers = iter([header(next(numbers), size) for _ in range(count)])
            began = time.perf_counter()
            await asyncio.gather(*(send(upload, headers, rest, who) for _ in range(at_once)))
            print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    how = submit if sys.argv[6:] == ["submit"] else main
    uvloop.run(how(sys.argv[1], Path(sys.argv[2]).read_text().strip(), *map(int, sys.argv[3:6])))
