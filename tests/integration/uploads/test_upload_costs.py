"""These tests count an upload's costs: messages that protobuf copies, looks at the bytes, commands for a small one."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from longshore.client.transfer.frames import chunk_frame
from longshore.server.edge.messages import chunks
from longshore.server.engine.uploads.uploads import UploadLimits
from longshore.server.store.protocol import Store
from longshore.v1 import task_service_pb2 as pb
from tests.support.servers.rawgrpc import MIB, TaskServer, crc, finish, header_of, opening, whole

CHUNKS = 8


async def test_no_chunk_goes_through_protobuf_and_its_bytes_are_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = random.Random(1).randbytes(CHUNKS * MIB)
    parsed: list[type] = []
    looked: list[int] = []

    def parse(message: bytes, real: Any = chunks.parse) -> Any:
        found = real(message)
        parsed.append(type(found))
        return found

    def value(data: bytes, real: Any = google_crc32c.value) -> int:
        looked.append(len(data))
        return int(real(data))

    def extend(before: int, data: bytes, real: Any = google_crc32c.extend) -> int:
        looked.append(len(data))
        return int(real(before, data))

    header, end = opening(header_of(size=len(content))), finish(content)
    pieces = [chunk_frame(at, content[at : at + MIB]) for at in range(0, len(content), MIB)]
    expected = crc(content)
    monkeypatch.setattr(chunks, "parse", parse)
    async with TaskServer(tmp_path) as server:
        monkeypatch.setattr(google_crc32c, "value", value)
        monkeypatch.setattr(google_crc32c, "extend", extend)
        call = server.raw_upload(iter([header.SerializeToString(), *pieces, end.SerializeToString()]))
        answer = await call
    assert answer.payload.crc32c == expected
    assert parsed == [pb.UploadRequest, *[chunks.Chunk] * CHUNKS, pb.UploadRequest]
    # A chunk is looked at where it is in its message, and what is before it in there is a few bytes.
    assert [size for size in looked if size > 100] == [len(piece) for piece in pieces]


async def test_the_writes_of_an_upload_take_one_task_of_the_loop(tmp_path: Path) -> None:
    """The first one makes the file. The others wake the loop only where a chunk waits for the disk."""
    tasks: list[asyncio.Task[Any]] = []

    def counting(loop: asyncio.AbstractEventLoop, work: Any, **named: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **named)
        tasks.append(task)  # its name comes later
        return task

    content = random.Random(2).randbytes(CHUNKS * MIB)
    async with TaskServer(tmp_path) as server:
        asyncio.get_running_loop().set_task_factory(counting)
        await server.upload(whole(header_of(size=len(content)), content))
    assert len([task for task in tasks if task.get_name().startswith("upload write")]) == 1


async def test_a_small_upload_is_two_commands_and_no_file(tmp_path: Path) -> None:
    """Its slot, and its end: bytes and task in one transaction."""
    ran: list[str] = []

    class Counting:
        def __init__(self, store: Store) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        async def run(self, command: Any) -> Any:
            ran.append(type(command).__name__)
            return await self._store.run(command)

    def counting(store: Store) -> Any:
        return Counting(store)

    content = b"x" * 1024
    async with TaskServer(tmp_path, limits=UploadLimits(), store_of=counting) as server:
        await server.upload(whole(header_of(size=len(content)), content))
        assert (server.sealed, server.parts) == ([], [])
    assert ran == ["OpenUpload", "FinishUpload"]
