"""A spool in a directory has `uploads/`, `payloads/XX/` (XX: the id's first two characters), `trash/SECONDS-NAME`, and
the file `identity`. `names` says what the other files are called."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import structlog

from longshore.server.model.errors import SpoolDamaged, StoreUnavailable
from longshore.server.model.task import Payload
from longshore.server.spool.directory import reopen
from longshore.server.spool.directory.files import made_once, sync_folder
from longshore.server.spool.directory.names import Names, OwnNames, SharedNames, files
from longshore.server.spool.directory.partial import DirectoryPartial
from longshore.server.spool.errors import SpoolRefused
from longshore.server.spool.faults import translated
from longshore.server.spool.identity import NAME, Identity

R = TypeVar("R")

_log = structlog.get_logger("longshore.spool")

_TRASH_KEPT: Final = 24 * 3600.0

WRITERS: Final = 4
"""Threads that write, read and open."""
SYNCERS: Final = 16
"""Threads that sync: files that are synced at the same time share a commit of the file system's journal."""


class DirectorySpool:
    """The spool in the folder `root`, which is made when it is not there; folders 0700, files 0600.

    `reserve` is how many bytes of the disk uploads leave free, so that a database on the same disk can still commit.
    Ids begin with two hexadecimal digits, which spread them over 256 folders. `shared` says that other servers may have
    the folder too, on this machine or on others; a resume copies then. `database` is the database that the spool
    belongs to. Raises the errors into which `faults` turns the disk's, and StoreUnavailable for every missing file
    while the folder is not the one that was opened.
    """

    def __init__(
        self,
        *,
        root: Path,
        reserve: int = 0,
        shared: bool = False,
        database: str = "",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._root = root
        self._names: Names = SharedNames(root) if shared else OwnNames(root)
        self._database = database
        self._identity = ""
        self._uploads = root / "uploads"
        self._payloads = root / "payloads"
        self._trash = root / "trash"
        self._reserve = reserve
        self._now = now
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="spool-write")
        self._syncers = ThreadPoolExecutor(SYNCERS, thread_name_prefix="spool-sync")
        # Files are unlinked one at a time: unlinking is slow and slows the syncs of others.
        self._maintenance = ThreadPoolExecutor(1, thread_name_prefix="spool-maintenance")

    async def open(self) -> None:
        await self._run(self._maintenance, self._open)

    async def close(self) -> None:
        """Wait for the work under way."""

        def stop() -> None:
            for pool in (self._writers, self._syncers, self._maintenance):
                pool.shutdown(wait=True)

        await asyncio.to_thread(stop)

    @property
    def identity(self) -> str:
        return self._identity

    async def create(self, upload_id: str, *, connection: int = 1) -> DirectoryPartial:
        part = self._names.part(upload_id, connection)

        def make() -> int:
            with translated("creating an upload"):
                return os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

        return self._partial(part, await self._run(self._writers, make), (0, 0), sealed=False)

    async def resume(self, upload_id: str, offset: int, crc32c: int, *, connection: int = 2) -> DirectoryPartial:
        names, part = self._names, self._names.part(upload_id, connection)
        if names.shared:
            # The threads that sync do the copy, so that a large one keeps nobody from writing.
            fd = await self._run(self._syncers, lambda: reopen.copied(names, upload_id, offset, crc32c, connection))
            return self._partial(part, fd, (offset, crc32c), sealed=False)
        final = names.final(upload_id, 0, 0)
        fd, written, sealed = await self._run(self._writers, lambda: reopen.in_place(part, final, offset, crc32c))
        return self._partial(part, fd, written, sealed=sealed)

    async def read(self, payload: Payload, offset: int, size: int) -> AsyncIterator[bytes]:
        path = self._final(payload)

        def begin() -> int:
            with translated("opening a payload"):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                held = os.fstat(fd).st_size
            if held == payload.size:
                return fd
            os.close(fd)
            raise SpoolDamaged(f"Payload {payload.id} has {held} bytes in the spool, and should have {payload.size}.")

        fd = await self._run(self._writers, begin)

        def piece(at: int) -> bytes:
            with translated("reading a payload"):
                return os.pread(fd, size, at)

        ahead = asyncio.ensure_future(self._run(self._writers, lambda: piece(offset)))
        try:
            while data := await asyncio.shield(ahead):
                offset += len(data)
                at = offset
                ahead = asyncio.ensure_future(self._run(self._writers, lambda at=at: piece(at)))  # type: ignore[misc]
                yield data
        finally:
            # The descriptor may not be closed, and its number given to another file, below a read that still runs.
            await asyncio.wait({ahead})
            if not ahead.cancelled():
                ahead.exception()
            await self._run(self._writers, lambda: os.close(fd))

    def path(self, payload: Payload) -> Path | None:
        final = self._final(payload)
        return final if final.exists() else None

    async def delete_upload(self, upload_id: str) -> None:
        await self._run(self._maintenance, lambda: self._remove(upload_id))

    async def delete_payload(self, payload_id: str) -> None:
        await self._run(self._maintenance, lambda: self._remove(payload_id))

    async def free_bytes(self) -> int:
        def ask() -> int:
            with translated("asking for free space"):
                figures = os.statvfs(self._uploads)
            if figures.f_files and not figures.f_favail:
                return 0 - self._reserve  # no inode left: no file can be made
            return figures.f_bavail * figures.f_frsize - self._reserve

        return await self._run(self._writers, ask)

    async def files_older_than(self, seconds: float) -> Sequence[str]:
        def look() -> list[str]:
            newest: dict[str, float] = {}
            with translated("looking for stray files"):
                for one, entry in files(self._root / "uploads", self._payloads):
                    with contextlib.suppress(FileNotFoundError):  # another server may have removed it
                        newest[one] = max(newest.get(one, 0.0), entry.stat().st_mtime)
            before = self._now() - seconds
            return sorted(one for one, changed in newest.items() if changed < before)

        return await self._run(self._maintenance, look)

    async def to_trash(self, ids: Sequence[str]) -> None:
        def move() -> None:
            with translated("moving stray files"):
                for one in ids:
                    for path in self._names.of(one):
                        # The time is in the name: a rename leaves the file's own time of change as it is.
                        with contextlib.suppress(FileNotFoundError):
                            path.rename(self._trash / f"{int(self._now())}-{path.name}")
                self._empty_trash()

        await self._run(self._maintenance, move)

    def _final(self, payload: Payload) -> Path:
        return self._names.final(payload.id, payload.size, payload.crc32c)

    def _partial(self, part: Path, fd: int, written: tuple[int, int], *, sealed: bool) -> DirectoryPartial:
        return DirectoryPartial(
            fd=fd,
            part=part,
            names=self._names,
            written=written,
            sealed=sealed,
            writers=self._writers,
            syncers=self._syncers,
        )

    async def _run(self, pool: Executor, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(pool, self._told_from_absence, work)

    # In threads ---------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        with translated("opening the spool"):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self._uploads, self._payloads, self._trash):
                folder.mkdir(mode=0o700, exist_ok=True)
            present = {entry.name for entry in os.scandir(self._payloads)}
            for number in range(256):
                name = f"{number:02x}"
                if name not in present:
                    (self._payloads / name).mkdir(mode=0o700, exist_ok=True)
            sync_folder(self._payloads)
            sync_folder(self._root)
            identity = made_once(self._root / NAME, Identity.new(self._database).content())
            self._empty_trash()
        self._identity = Identity.read(identity, where=str(self._root), database=self._database).spool

    def _told_from_absence(self, work: Callable[[], R]) -> R:
        """Tell damage from an absent spool. Where a file is missing, the whole spool may be: not mounted (any more), or
        replaced by something else. Then nothing is lost, and another server may still have the spool."""
        try:
            return work()
        except SpoolDamaged as damage:
            if not self._identity or self._is_there():
                raise
            _log.error("spool_away", folder=str(self._root), error=damage.message)
            raise StoreUnavailable(
                "The directory of the spool is not there, or is another one than at the start. Try again, here or "
                "elsewhere."
            ) from damage

    def _is_there(self) -> bool:
        try:
            found = Identity.read((self._root / NAME).read_bytes(), where=str(self._root), database=self._database)
        except (OSError, SpoolRefused):
            return False
        return found.spool == self._identity

    def _remove(self, one: str) -> None:
        with translated("removing files"):
            _unlink(*self._names.of(one))

    def _empty_trash(self) -> None:
        before = self._now() - _TRASH_KEPT
        for entry in os.scandir(self._trash):
            seconds, dash, _ = entry.name.partition("-")
            if dash and seconds.isdigit() and int(seconds) < before:
                _unlink(Path(entry.path))


def _unlink(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
