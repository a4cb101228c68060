"""This module keeps bytes on the local disk until they are put into an object store, in a file without a name for each
upload.

The file does not outlive the process. Its bytes are not durable, and no caller is told that they are.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import google_crc32c

from longshore.server.spool.faults import translated
from longshore.server.spool.objects.segments import SEGMENT

R = TypeVar("R")

SLOTS: Final = 3
"""Segments of one upload on the local disk: one that is filled, one under way, one that waits."""
_THREADS: Final = 4


class StagingFile:
    """Room for `SLOTS` segments of one upload. The methods run in threads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, slot: int, at: int, data: bytes, crc: int) -> int:
        """Write `data` at byte `at` of a slot, and return `crc` extended by it."""
        rest, position = memoryview(data), slot * SEGMENT + at
        with translated("writing an upload"):
            while rest:
                count = os.pwrite(self._fd, rest, position)
                rest, position = rest[count:], position + count
        return int(google_crc32c.extend(crc, data))

    def read(self, slot: int, size: int) -> tuple[bytes, str]:
        """Return the first bytes of a slot, and their MD5 in hexadecimal digits."""
        with translated("reading an upload back"):
            data = os.pread(self._fd, size, slot * SEGMENT)
        return data, hashlib.md5(data, usedforsecurity=False).hexdigest()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Staging:
    """The files in `folder`, and the threads that write and read them."""

    def __init__(self, folder: Path, *, reserve: int) -> None:
        self._folder = folder
        self._reserve = reserve
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="spool-staging")

    async def open(self) -> None:
        def make() -> None:
            with translated("opening the staging folder"):
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

        await self.run(make)

    async def file(self) -> StagingFile:
        def make() -> StagingFile:
            with translated("creating an upload"), tempfile.TemporaryFile(dir=self._folder, buffering=0) as file:
                return StagingFile(os.dup(file.fileno()))

        return await self.run(make)

    async def free_bytes(self) -> int:
        """Return the room left on the local disk, less the reserve."""

        def ask() -> int:
            with translated("asking for free space"):
                figures = os.statvfs(self._folder)
            return figures.f_bavail * figures.f_frsize - self._reserve

        return await self.run(ask)

    async def run(self, work: Callable[[], R]) -> R:
        executor: Executor = self._threads
        return await asyncio.get_running_loop().run_in_executor(executor, work)

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
