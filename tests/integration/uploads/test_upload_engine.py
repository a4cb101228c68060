"""The engine of uploads without gRPC: cancellation at awkward moments, a disk and a store that stand still or fail."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any, TypeVar

import pytest

from longshore.server.engine.submissions import Defaults, TaskRequest, UploadRequest
from longshore.server.engine.uploads.stream import UploadStream
from longshore.server.engine.uploads.uploads import UploadLimits, Uploads
from longshore.server.model.clock import SystemClock
from longshore.server.model.errors import (
    SpoolDamaged,
    SpoolFull,
    StoreOverloaded,
    StoreUnavailable,
    UploadInProgress,
    UploadTakenOver,
)
from longshore.server.model.task import Destination, FilePush, Terms, Upload
from longshore.server.spool.protocol import BegunWrite, PartialFile
from longshore.server.store.commands import Bounds, Checkpoint, Command, FinishUpload, ForgetUploads, RejectUpload
from tests.support.servers.rawgrpc import MIB, TaskServer, crc
from tests.support.stores.wrapped import Wrapped
from tests.support.waiting import until

R = TypeVar("R")

CONTENT = random.Random(0).randbytes(3 * MIB)
REQUEST = UploadRequest(
    request_id="r1", task=TaskRequest((FilePush(Destination("default", "", "c1", "/srv/file")),), Terms())
)
ME = "local"


class Gate:
    """Where a call stands still until it is opened; `reached` says that it does."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def pass_through(self) -> None:
        self.reached.set()
        await self.opened.wait()


class GatedPartial:
    """A real file with gates before, or errors in the place of, some of its methods."""

    def __init__(self, inner: PartialFile, disk: GatedDisk) -> None:
        self.inner = inner
        self.disk = disk

    def begin_write(self, *pieces: bytes | memoryview, **named: Any) -> BegunWrite:
        writing: BegunWrite = asyncio.ensure_future(self.write(*pieces, **named))
        return writing

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if name not in self.disk.gates and name not in self.disk.errors:
            return method

        async def slow(*arguments: Any, **named: Any) -> Any:
            if name in self.disk.gates:
                await self.disk.gates[name].pass_through()
            if name in self.disk.errors:
                raise self.disk.errors.pop(name)
            return await method(*arguments, **named)

        return slow


class GatedDisk(Wrapped):
    """A real spool whose methods named in `gates` stand still there, and fail once if named in `errors`."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.gates: dict[str, Gate] = {}
        self.errors: dict[str, Exception] = {}

    async def create(self, upload_id: str, *, connection: int = 1) -> Any:
        return GatedPartial(await self.inner.create(upload_id, connection=connection), self)

    async def resume(self, *arguments: Any, connection: int = 2) -> Any:
        if "resume" in self.gates:
            await self.gates["resume"].pass_through()
        return GatedPartial(await self.inner.resume(*arguments, connection=connection), self)


class Bench:
    """An engine on a gated disk."""

    def __init__(self, root: Path, **limits: Any) -> None:
        self.disks: list[GatedDisk] = []
        self.server = TaskServer(
            root, limits=UploadLimits(**{"inline_bytes": 0, "patience": 0.1} | limits), spool_of=self._wrap
        )

    def _wrap(self, spool: Any) -> Any:
        self.disks.append(GatedDisk(spool))
        return self.disks[0]

    @property
    def disk(self) -> GatedDisk:
        return self.disks[0]

    @property
    def uploads(self) -> Uploads:
        return self.server.uploads

    async def __aenter__(self) -> Bench:
        await self.server.__aenter__()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for gate in self.disk.gates.values():
            gate.opened.set()
        await self.server.stop(drain=0.0)

    async def whole(self, request: UploadRequest = REQUEST) -> Upload:
        """Send what is missing, and finish."""
        async with await self.uploads.open(ME, request) as stream:
            await send(stream, CONTENT, start=stream.offset)
            return await stream.finish(len(CONTENT), crc(CONTENT))

    async def cut(self, end: int) -> None:
        """Send so many bytes, and go."""
        async with await self.uploads.open(ME, REQUEST) as stream:
            await send(stream, CONTENT[:end], start=stream.offset)

    async def check_one_task(self) -> None:
        assert len(await self.server.tasks()) == 1
        assert [path.read_bytes() for path in self.server.sealed] == [CONTENT]


async def send(stream: UploadStream, content: bytes, *, start: int = 0) -> None:
    for offset in range(start, len(content), MIB):
        piece = content[offset : offset + MIB]
        await stream.chunk(offset, crc(piece), piece)


async def test_the_old_connection_has_stopped_writing_before_the_new_one_opens_the_file(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        gate = bench.disk.gates["write"] = Gate()
        bench.disk.gates["resume"] = resume = Gate()
        resume.opened.set()

        async def old() -> None:
            async with await bench.uploads.open(ME, REQUEST) as stream:
                await send(stream, CONTENT)
                await asyncio.Event().wait()

        writing = asyncio.create_task(old())
        await asyncio.wait_for(gate.reached.wait(), 10)
        taking = UploadRequest(request_id="r1", task=REQUEST.task, take_over=True)
        new = asyncio.create_task(bench.uploads.open(ME, taking))
        await asyncio.wait({new}, timeout=0.3)
        assert not new.done()
        assert not resume.reached.is_set()
        gate.opened.set()
        stream = await asyncio.wait_for(new, 10)
        with pytest.raises(UploadTakenOver):
            await writing
        assert stream.offset > 0
        async with stream:
            await send(stream, CONTENT, start=stream.offset)
            await stream.finish(len(CONTENT), crc(CONTENT))
        await bench.check_one_task()


async def test_a_disk_that_hangs_keeps_the_upload_to_itself(tmp_path: Path) -> None:
    """Better no upload than two writers of one file."""
    async with Bench(tmp_path, detach=0.2) as bench:
        bench.disk.gates["write"] = gate = Gate()

        async def old() -> None:
            async with await bench.uploads.open(ME, REQUEST) as stream:
                await send(stream, CONTENT[:MIB])

        await asyncio.wait_for(old(), 10)  # it is not held up for ever either
        assert gate.reached.is_set()
        taking = UploadRequest(request_id="r1", task=REQUEST.task, take_over=True)
        with pytest.raises(UploadInProgress):
            await bench.uploads.open(ME, taking)
        assert bench.uploads.statistics().closing == 1
        gate.opened.set()
        await until(lambda: bench.uploads.statistics().closing == 0)
        await bench.whole()
        await bench.check_one_task()


async def test_a_cancel_while_an_upload_opens_leaves_it_free(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        await bench.cut(MIB)
        bench.disk.gates["resume"] = gate = Gate()
        opening = asyncio.create_task(bench.uploads.open(ME, REQUEST))
        await asyncio.wait_for(gate.reached.wait(), 10)
        opening.cancel()
        await asyncio.wait({opening})
        assert opening.cancelled()
        with pytest.raises(UploadInProgress):  # the file may be opened any moment
            await bench.uploads.open(ME, REQUEST)
        gate.opened.set()
        await bench.server.idle()
        del bench.disk.gates["resume"]
        await bench.whole()
        await bench.check_one_task()


async def test_a_finish_completes_although_its_caller_is_cancelled(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        bench.disk.gates["seal"] = gate = Gate()
        sending = asyncio.create_task(bench.whole())
        await asyncio.wait_for(gate.reached.wait(), 10)
        sending.cancel()
        gate.opened.set()
        await asyncio.wait({sending})
        assert sending.cancelled()
        await bench.server.idle()
        await bench.check_one_task()
        done = await bench.whole()
        assert len(done.tasks) == 1


async def test_a_take_over_of_an_upload_that_is_being_finished_waits_for_it(tmp_path: Path) -> None:
    async with Bench(tmp_path, patience=20.0) as bench:
        bench.disk.gates["seal"] = gate = Gate()
        sending = asyncio.create_task(bench.whole())
        await asyncio.wait_for(gate.reached.wait(), 10)
        taking = asyncio.create_task(bench.whole(UploadRequest(request_id="r1", task=REQUEST.task, take_over=True)))
        await asyncio.wait({taking}, timeout=0.2)
        assert not taking.done()
        gate.opened.set()
        first, second = await sending, await taking
        assert [task.id for task in first.tasks] == [task.id for task in second.tasks]
        await bench.check_one_task()


async def test_bytes_that_a_failed_write_lost_are_never_jumped_over(tmp_path: Path) -> None:
    """One write fails while the next chunk waits, and the disk is well again: the file ends before the gap."""
    async with Bench(tmp_path) as bench:
        await bench.cut(MIB)
        bench.disk.gates["write"] = gate = Gate()

        async def broken() -> None:
            async with await bench.uploads.open(ME, REQUEST) as stream:
                await send(stream, CONTENT[: 2 * MIB], start=MIB)
                await asyncio.wait_for(gate.reached.wait(), 10)
                behind = CONTENT[2 * MIB : 2 * MIB + 1000]
                await stream.chunk(2 * MIB, crc(behind), behind)
                bench.disk.errors["write"] = SpoolFull("full", subject="spool")
                gate.opened.set()
                await stream.finish(2 * MIB + 1000, crc(CONTENT[: 2 * MIB + 1000]))

        with pytest.raises(SpoolFull):
            await broken()
        assert (await bench.uploads.get(ME, "r1")).upload.offset == MIB
        await bench.whole()
        await bench.check_one_task()


async def test_a_disk_that_cannot_sync_is_damage_and_no_task(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        bench.disk.errors["seal"] = SpoolDamaged("Input/output error")
        with pytest.raises(SpoolDamaged):
            await bench.whole()
        assert await bench.server.tasks() == []
        assert bench.server.sealed == []
        await bench.whole()  # anew, under the same id
        await bench.check_one_task()


class Stubborn(Wrapped):
    """A store that refuses the first commands of some kinds."""

    def __init__(self, inner: Any, kinds: tuple[type[Command[Any]], ...], error: Exception, times: int) -> None:
        super().__init__(inner)
        self.kinds = kinds
        self.error = error
        self.times = times

    def begin(self, command: Command[R]) -> asyncio.Future[R]:
        if isinstance(command, self.kinds) and self.times:
            self.times -= 1
            raise self.error
        begun: asyncio.Future[R] = self.inner.begin(command)
        return begun

    async def run(self, command: Command[R]) -> R:
        return await self.begin(command)


async def test_an_overloaded_store_is_waited_for_once_an_upload_is_admitted(tmp_path: Path) -> None:
    error = StoreOverloaded("busy", subject="store", retry_after=0.01)
    stubborn: list[Stubborn] = []

    def wrap(store: Any) -> Any:
        stubborn.append(Stubborn(store, (Checkpoint, FinishUpload), error, times=5))
        return stubborn[0]

    limits = UploadLimits(inline_bytes=0, checkpoint_bytes=MIB, reserve_step=MIB)
    async with TaskServer(tmp_path, limits=limits, store_of=wrap) as server:
        async with await server.uploads.open(ME, REQUEST) as stream:
            await send(stream, CONTENT)
            done = await stream.finish(len(CONTENT), crc(CONTENT))
        assert len(done.tasks) == 1
        assert stubborn[0].times == 0


async def test_a_database_that_is_away_ends_the_stream_and_costs_no_checkpoint(tmp_path: Path) -> None:
    stubborn: list[Stubborn] = []

    def wrap(store: Any) -> Any:
        stubborn.append(Stubborn(store, (Checkpoint,), StoreUnavailable("away"), times=0))
        return stubborn[0]

    limits = UploadLimits(inline_bytes=0, checkpoint_bytes=MIB)
    async with TaskServer(tmp_path, limits=limits, store_of=wrap) as server:
        async with await server.uploads.open(ME, REQUEST) as stream:
            await send(stream, CONTENT[:MIB])
        stubborn[0].times = 1_000

        async def without_a_database() -> None:
            async with await server.uploads.open(ME, REQUEST) as stream:
                assert stream.offset == MIB
                await send(stream, CONTENT, start=MIB)
                await stream.finish(len(CONTENT), crc(CONTENT))

        with pytest.raises(StoreUnavailable):
            await without_a_database()
        stubborn[0].times = 0
        async with await server.uploads.open(ME, REQUEST) as stream:
            assert stream.offset == MIB
            await send(stream, CONTENT, start=MIB)
            await stream.finish(len(CONTENT), crc(CONTENT))
        assert server.sealed[0].read_bytes() == CONTENT


async def test_payloads_kept_for_a_retry_only_make_room(tmp_path: Path) -> None:
    async with TaskServer(tmp_path) as server:
        limits = UploadLimits(bounds=Bounds(spool_bytes=MIB), inline_bytes=0)
        asked: list[int] = []
        blocker = await server.uploads.create(ME, UploadRequest(request_id="old", task=REQUEST.task, size=MIB))

        async def free_spool(wanted: int) -> None:
            asked.append(wanted)
            await server.store.run(RejectUpload(upload_id=blocker.upload.id, connection=0))
            await server.store.run(ForgetUploads(upload_ids=(blocker.upload.id,)))

        uploads = Uploads(
            store=server.store,
            spool=server.uploads._spool,
            clock=SystemClock(),
            limits=limits,
            defaults=Defaults(),
            free_spool=free_spool,
        )
        view = await uploads.create(ME, UploadRequest(request_id="new", task=REQUEST.task, size=1000))
        assert asked == [1000]
        assert view.upload.reserved == 1000


async def test_a_slow_upload_updates_its_sign_of_life(tmp_path: Path) -> None:
    limits = UploadLimits(checkpoint_seconds=0.0)
    async with TaskServer(tmp_path, limits=limits) as server, await server.uploads.open(ME, REQUEST) as stream:
        before = (await server.uploads.get(ME, "r1")).upload.touched_at
        await stream.chunk(0, crc(b"x"), b"x")
        await stream._checkpointed()
        assert (await server.uploads.get(ME, "r1")).upload.touched_at > before
