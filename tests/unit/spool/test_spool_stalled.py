"""A directory that several servers share: one of them stands still at every step of what it does, the upload goes on
elsewhere, and then it wakes.

Every line of the modules that touch files is such a step, once each: what stands still there is a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import google_crc32c
import pytest

from longshore.server.model.errors import LongshoreError
from longshore.server.model.task import Payload
from longshore.server.spool.directory.names import SharedNames
from longshore.server.spool.directory.partial import DirectoryPartial
from longshore.server.spool.directory.reopen import copied
from longshore.server.spool.directory.spool import DirectorySpool

DATA = bytes(range(256)) * 64
MARK = len(DATA) // 4
FURTHER = len(DATA) // 2
LOST = DATA[:MARK] + bytes(len(DATA) - MARK)
MODULES = (
    "spool/directory/reopen.py",
    "spool/directory/partial.py",
    "spool/directory/files.py",
    "spool/directory/names.py",
)
WITHIN = 20.0


@pytest.fixture(autouse=True)
def _no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """This is about order, not about power: and a test makes a hundred of them."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda fd: None)


def crc(data: bytes) -> int:
    return int(google_crc32c.value(data))


class Stalled:
    """Runs `work` in a thread that stands still before its step number `at`."""

    def __init__(self, work: Callable[[], Any], at: int) -> None:
        self._left = at
        self._reached, self._go = threading.Event(), threading.Event()
        self.whole = True
        """It came to its end without standing still: there is no such step."""
        self._work = work
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()
        assert self._reached.wait(WITHIN)

    def wake(self) -> None:
        self._go.set()
        self._thread.join(WITHIN)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        sys.settrace(self._trace)
        try:
            # Its errors are its own trouble: it has lost the upload.
            with contextlib.suppress(LongshoreError):
                self._work()
        finally:
            sys.settrace(None)
            self._reached.set()

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        del argument
        if not frame.f_code.co_filename.endswith(MODULES):
            return None
        if event == "line":
            self._left -= 1
            if self._left == 0:
                self.whole = False
                self._reached.set()
                self._go.wait(WITHIN)
        return self._trace


class Bench:
    """A spool of two servers, and an upload with a checkpoint of connection 1; another upload for each step."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names = SharedNames(root)
        self.spool = DirectorySpool(root=root, shared=True)
        self.id = ""

    async def begun(self, step: int) -> DirectoryPartial:
        self.id = f"{step:032x}"
        first = await self.spool.create(self.id, connection=1)
        await first.write(DATA[:MARK])
        await first.sync()
        return first

    def resume(self) -> None:
        """Do what connection 2 does at its start, as the spool's thread does it."""
        os.close(copied(self.names, self.id, MARK, crc(DATA[:MARK]), 2))

    async def goes_on(self, connection: int, *, until: int = len(DATA), at: int = MARK) -> None:
        """Another server: resume, write; seal at the end."""
        partial = await self.spool.resume(self.id, at, crc(DATA[:at]), connection=connection)
        await partial.write(DATA[at:until])
        await partial.sync()
        if until == len(DATA):
            await partial.seal(self.id)
        await partial.close()

    async def check(self) -> None:
        payload = Payload(self.id, len(DATA), crc(DATA))
        assert b"".join([piece async for piece in self.spool.read(payload, 0, 1 << 20)]) == DATA

    async def every_step(self, scene: Callable[[int], Awaitable[bool]]) -> int:
        """Play the scene with a server standing still at step 1, 2, ... until there is no such step any more; answers
        how many there were. Whatever was left behind goes with the payload."""
        await self.spool.open()
        step, whole = 0, False
        while not whole:
            step += 1
            whole = await scene(step)
            await self.spool.delete_payload(self.id)
        assert [path for path in self.root.rglob("*") if path.is_file() and path.name != "identity"] == []
        await self.spool.close()
        return step - 1


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "spool")


async def test_asleep_in_a_resume_while_another_finishes(bench: Bench) -> None:
    async def scene(step: int) -> bool:
        await (await bench.begun(step)).close()
        stalled = Stalled(bench.resume, step)
        await asyncio.to_thread(stalled.start)
        await bench.goes_on(3)
        await bench.check()
        await asyncio.to_thread(stalled.wake)
        await bench.check()
        return stalled.whole

    assert await bench.every_step(scene) > 30


async def test_asleep_in_a_resume_while_another_gets_further(bench: Bench) -> None:
    """A checkpoint of a newer connection survives whatever an older one does when it wakes."""

    async def scene(step: int) -> bool:
        await (await bench.begun(step)).close()
        stalled = Stalled(bench.resume, step)
        await asyncio.to_thread(stalled.start)
        await bench.goes_on(3, until=FURTHER)
        await asyncio.to_thread(stalled.wake)
        await bench.goes_on(4, at=FURTHER)
        await bench.check()
        return stalled.whole

    assert await bench.every_step(scene) > 30


@pytest.mark.parametrize("content", [DATA, LOST], ids=["the same bytes", "other bytes"])
async def test_asleep_in_a_seal_while_another_finishes(bench: Bench, content: bytes) -> None:
    async def scene(step: int) -> bool:
        first = await bench.begun(step)
        await first.write(content[MARK:])
        stalled = Stalled(lambda: first._seal(bench.id), step)
        await asyncio.to_thread(stalled.start)
        await bench.goes_on(2)
        await bench.check()
        await asyncio.to_thread(stalled.wake)
        await bench.check()
        await first.close()
        return stalled.whole

    assert await bench.every_step(scene) > 10


async def test_asleep_in_a_write_while_another_finishes(bench: Bench) -> None:
    async def scene(step: int) -> bool:
        first = await bench.begun(step)
        stalled = Stalled(lambda: first._write(LOST[MARK:]), step)
        await asyncio.to_thread(stalled.start)
        await bench.goes_on(2)
        await asyncio.to_thread(stalled.wake)
        await bench.check()
        await first.close()
        return stalled.whole

    assert await bench.every_step(scene) > 5
