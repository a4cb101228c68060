"""These tests count an upload's costs: messages that protobuf copies, looks at the bytes, commands for a small one."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from longshore.client.transfer.frames import chunk_frame
from longshore.server.edge.messages import chunks
from longshore.server.engine.uploads.uploads import UploadLimits
from longshore.server.model.errors import StoreOverloaded
from longshore.server.store.commands import FinishUpload
from longshore.server.store.protocol import Changes, Store
from longshore.v1 import task_service_pb2 as pb
from tests.support.servers.rawgrpc import MIB, TaskServer, crc, finish, header_of, opening, whole
from tests.support.stores.wrapped import Wrapped

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


class Counting(Wrapped):
    """The real store, and the kinds of the commands that it was given."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.ran: list[str] = []
        self.commits = 0
        store.subscribe(self._on_commit)

    def _on_commit(self, _changes: Changes) -> None:
        self.commits += 1

    async def run(self, command: Any) -> Any:
        return await self.begin(command)

    def begin(self, command: Any) -> Any:
        self.ran.append(type(command).__name__)
        return self.inner.begin(command)


async def test_a_small_upload_is_one_command_in_one_commit_and_no_file(tmp_path: Path) -> None:
    stores: list[Counting] = []

    def counting(store: Store) -> Any:
        stores.append(Counting(store))
        return stores[0]

    content = b"x" * 1024
    async with TaskServer(tmp_path, limits=UploadLimits(), store_of=counting) as server:
        for number in range(3):
            await server.upload(whole(header_of(f"r{number}", size=len(content)), content))
        assert (server.sealed, server.parts) == ([], [])
    assert stores[0].ran == ["SubmitTasks"] * 3
    assert stores[0].commits == 3
    with sqlite3.connect(tmp_path / "db.sqlite") as database:
        # For servers of the version before: see `record_whole_upload`.
        assert database.execute("SELECT count(*) FROM uploads").fetchone() == (3,)


async def test_a_claim_is_expected_once_for_each_upload_and_behind_its_finish(tmp_path: Path) -> None:
    """A claim that is in the writer's line before the finish may be committed alone, and finds nothing."""

    class Overloaded(Counting):
        left = 5

        def begin(self, command: Any) -> Any:
            if isinstance(command, FinishUpload) and self.left:
                self.left -= 1
                raise StoreOverloaded("busy", subject="store", retry_after=0.001)
            return super().begin(command)

    stores: list[Overloaded] = []

    def overloaded(store: Store) -> Any:
        stores.append(Overloaded(store))
        return stores[0]

    content = b"x" * 1024
    async with TaskServer(tmp_path, store_of=overloaded) as server:
        server.uploads.expect_tasks = lambda: stores[0].ran.append("expected")
        for number in range(3):
            await server.upload(whole(header_of(f"r{number}"), content))
        only_kept = pb.UploadHeader(request_id="only kept", payload_only=True)
        await server.upload(whole(only_kept, content))
    assert stores[0].left == 0
    assert stores[0].ran == ["OpenUpload", "FinishUpload", "expected"] * 3 + ["OpenUpload", "FinishUpload"]


async def test_a_small_upload_that_does_not_wait_takes_no_task_of_the_server(tmp_path: Path) -> None:
    """Those of gRPC are not counted; they are the same for every call."""
    tasks: list[asyncio.Task[Any]] = []

    def counting(loop: asyncio.AbstractEventLoop, work: Any, **named: Any) -> asyncio.Task[Any]:
        tasks.append(asyncio.Task(work, loop=loop, **named))
        return tasks[-1]

    def of_ours(task: asyncio.Task[Any]) -> bool:
        code = getattr(task.get_coro(), "cr_code", None)
        return code is not None and "/longshore/" in code.co_filename

    content = b"x" * 1024
    async with TaskServer(tmp_path, limits=UploadLimits()) as server:
        await server.upload(whole(header_of("first", size=len(content)), content))  # asks the disk for its room
        asyncio.get_running_loop().set_task_factory(counting)
        await server.upload(whole(header_of("second", size=len(content)), content))
    assert tasks
    assert [task for task in tasks if of_ours(task)] == []
