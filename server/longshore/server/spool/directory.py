"""A spool in a directory: `uploads/ID.part`, `payloads/XX/ID` (XX: the id's first two characters),
`trash/SECONDS-ID`."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import google_crc32c

from longshore.server.model.errors import SpoolDamaged
from longshore.server.spool.faults import translated
from longshore.server.spool.partial import DirectoryPartial, sync_folder

R = TypeVar("R")

_ID: Final = re.compile(r"[0-9a-f]{2}[A-Za-z0-9-]{6,62}")
_PART: Final = ".part"
_BLOCK: Final = 1 << 20
_TRASH_KEPT: Final = 24 * 3600.0

WRITERS: Final = 4
"""Threads that write, read and open."""
SYNCERS: Final = 16
"""Threads that sync: files that are synced at the same time share a commit of the file system's journal."""


class DirectorySpool:
    """Spool in the folder `root`, which is made when it is not there; folders 0700, files 0600.

    `reserve`: bytes of the disk that uploads leave free, so that a database on the same disk can still commit. Ids
    begin with two hexadecimal digits, which spread them over 256 folders. Raises what `faults` says of the disk's
    errors.
    """

    def __init__(self, *, root: Path, reserve: int = 0, now: Callable[[], float] = time.time) -> None:
        self._root = root
        self._uploads = root / "uploads"
        self._payloads = root / "payloads"
        self._trash = root / "trash"
        self._reserve = reserve
        self._now = now
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="spool-write")
        self._syncers = ThreadPoolExecutor(SYNCERS, thread_name_prefix="spool-sync")
        # Unlinking is slow and slows the syncs of others: one at a time.
        self._chores = ThreadPoolExecutor(1, thread_name_prefix="spool-chores")

    async def open(self) -> None:
        await self._run(self._chores, self._open)

    async def close(self) -> None:
        """Wait for what is under way."""

        def stop() -> None:
            for pool in (self._writers, self._syncers, self._chores):
                pool.shutdown(wait=True)

        await asyncio.to_thread(stop)

    async def create(self, upload_id: str) -> DirectoryPartial:
        part = self._part(upload_id)

        def make() -> int:
            with translated("creating an upload"):
                return os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

        return self._partial(part, await self._run(self._writers, make), (0, 0), sealed=False)

    async def resume(self, upload_id: str, offset: int, crc32c: int) -> DirectoryPartial:
        part = self._part(upload_id)
        fd, written, sealed = await self._run(self._writers, lambda: self._reopen(upload_id, offset, crc32c))
        return self._partial(part, fd, written, sealed=sealed)

    async def read(self, payload_id: str, offset: int, size: int) -> AsyncIterator[bytes]:
        path = self._final(payload_id)

        def begin() -> int:
            with translated("opening a payload"):
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

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

    def path(self, payload_id: str) -> Path | None:
        final = self._final(payload_id)
        return final if final.exists() else None

    async def delete_upload(self, upload_id: str) -> None:
        paths = self._part(upload_id), self._final(upload_id)
        await self._run(self._chores, lambda: _unlink(*paths))

    async def delete_payload(self, payload_id: str) -> None:
        path = self._final(payload_id)
        await self._run(self._chores, lambda: _unlink(path))

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
            before = self._now() - seconds
            with translated("looking for stray files"):
                return sorted({name for name, entry in self._files() if entry.stat().st_mtime < before})

        return await self._run(self._chores, look)

    async def to_trash(self, ids: Sequence[str]) -> None:
        def move() -> None:
            with translated("moving stray files"):
                for one in ids:
                    for path in (self._part(one), self._final(one)):
                        if path.exists():
                            # The time is in the name: a rename leaves the file's own time of change as it is.
                            path.rename(self._trash / f"{int(self._now())}-{path.name}")
                self._empty_trash()

        await self._run(self._chores, move)

    # Names --------------------------------------------------------------------------------------------------------

    def _part(self, upload_id: str) -> Path:
        return self._uploads / f"{_checked(upload_id)}{_PART}"

    def _final(self, payload_id: str) -> Path:
        return self._payloads / _checked(payload_id)[:2] / payload_id

    def _partial(self, part: Path, fd: int, written: tuple[int, int], *, sealed: bool) -> DirectoryPartial:
        return DirectoryPartial(
            fd=fd,
            part=part,
            final=self._final,
            written=written,
            sealed=sealed,
            writers=self._writers,
            syncers=self._syncers,
        )

    async def _run(self, pool: Executor, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

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
                    (self._payloads / name).mkdir(mode=0o700)
            sync_folder(self._payloads)
            sync_folder(self._root)
            self._empty_trash()

    def _reopen(self, upload_id: str, offset: int, crc: int) -> tuple[int, tuple[int, int], bool]:
        part, final = self._part(upload_id), self._final(upload_id)
        sealed = not part.exists() and final.exists()
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if not offset and not sealed else 0)
        with translated("opening an upload again"):
            fd = os.open(final if sealed else part, flags, 0o600)
        try:
            with translated("opening an upload again"):
                held = os.fstat(fd).st_size
                if held < offset:
                    raise SpoolDamaged(f"Of {offset} bytes that were durable {held} are left.")
                if sealed:
                    return fd, (held, _crc_from(fd, offset, held, crc)), True
                os.ftruncate(fd, offset)
                return fd, (offset, crc), False
        except BaseException:
            os.close(fd)
            raise

    def _files(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Ids and entries of everything that looks like ours."""
        for entry in os.scandir(self._uploads):
            name = entry.name.removesuffix(_PART)
            if name != entry.name and _ID.fullmatch(name):
                yield name, entry
        for folder in os.scandir(self._payloads):
            for entry in os.scandir(folder.path):
                if _ID.fullmatch(entry.name):
                    yield entry.name, entry

    def _empty_trash(self) -> None:
        before = self._now() - _TRASH_KEPT
        for entry in os.scandir(self._trash):
            seconds, dash, _ = entry.name.partition("-")
            if dash and seconds.isdigit() and int(seconds) < before:
                _unlink(Path(entry.path))


def _checked(one: str) -> str:
    """An id that can be nothing but a name. Ids come from the server itself, so another one is a defect."""
    if not _ID.fullmatch(one):
        raise ValueError(f"{one!r} is no id of the spool")
    return one


def _crc_from(fd: int, start: int, end: int, crc: int) -> int:
    """CRC32C of everything, given that of the bytes before `start`."""
    at = start
    while at < end:
        block = os.pread(fd, min(_BLOCK, end - at), at)
        if not block:
            raise SpoolDamaged(f"A sealed payload ends at byte {at}, before its {end} bytes.")
        crc, at = google_crc32c.extend(crc, block), at + len(block)
    return crc


def _unlink(*paths: Path) -> None:
    with translated("removing files"):
        for path in paths:
            path.unlink(missing_ok=True)
