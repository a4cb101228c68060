"""This module writes, syncs and seals the partial file of one upload in a directory spool."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TypeVar

import google_crc32c

from longshore.server.model.crc32c import combined
from longshore.server.model.errors import LongshoreError, SpoolDamaged, UploadTakenOver
from longshore.server.spool.directory.files import link, sync_folder
from longshore.server.spool.directory.names import Names
from longshore.server.spool.faults import translated

R = TypeVar("R")

_BLOCK = 1 << 20
"""Bytes per read when a file is read back."""
_AT_ONCE = 256
"""Pieces in one write; the system takes 1,024 at most."""


class DirectoryPartial:
    """A PartialFile in a directory. Bytes are written by one pool of threads and synced by another, so that a disk
    that is slow to sync does not keep the others from writing."""

    def __init__(
        self,
        *,
        fd: int,
        part: Path,
        names: Names,
        written: tuple[int, int],
        sealed: bool,
        writers: Executor,
        syncers: Executor,
    ) -> None:
        self._fd = fd
        self._part = part
        self._names = names
        self._written = written
        """(offset, crc32c): one object, so that a sync beside a write sees a pair that belongs together."""
        self._sealed = sealed
        self._named = sealed
        """Tells whether the part's name is durable."""
        self._damage: str | None = None
        self._writers = writers
        self._syncers = syncers

    @property
    def offset(self) -> int:
        return self._written[0]

    @property
    def crc32c(self) -> int:
        return self._written[1]

    @property
    def sealed(self) -> bool:
        return self._sealed

    async def write(self, *pieces: bytes | memoryview, crc32c: int | None = None) -> None:
        await asyncio.wrap_future(self.begin_write(*pieces, crc32c=crc32c))

    def begin_write(self, *pieces: bytes | memoryview, crc32c: int | None = None) -> Future[None]:
        return self._writers.submit(self._write, *pieces, crc32c=crc32c)

    async def sync(self) -> tuple[int, int]:
        return await self._run(self._syncers, self._sync)

    async def sha256(self) -> bytes:
        return await self._run(self._syncers, self._sha256)

    async def seal(self, payload_id: str) -> None:
        await self._run(self._syncers, lambda: self._seal(payload_id))

    async def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            await self._run(self._writers, lambda: os.close(fd))

    async def _run(self, pool: Executor, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    # In threads ---------------------------------------------------------------------------------------------------

    def _write(self, *pieces: bytes | memoryview, crc32c: int | None = None) -> None:
        self._check()
        if self._sealed:
            raise SpoolDamaged("A sealed payload takes no more bytes.")
        offset, crc = self._written
        at = offset
        with translated("writing an upload"):
            for first in range(0, len(pieces), _AT_ONCE):
                at += self._write_at(at, list(pieces[first : first + _AT_ONCE]))
        # The bytes are not read a second time if the caller that took them has computed their checksum.
        if crc32c is None:
            for piece in pieces:
                crc = google_crc32c.extend(crc, bytes(piece))
        else:
            crc = combined(crc, crc32c, at - offset)
        self._written = at, crc

    def _write_at(self, at: int, pieces: list[bytes | memoryview]) -> int:
        """Write all of the pieces, and return how many bytes they have."""
        size = sum(map(len, pieces))
        count = os.pwritev(self._fd, pieces, at)
        if count < size:
            rest = memoryview(b"".join(pieces))
            while count < size:
                count += os.pwrite(self._fd, rest[count:], at + count)
        return size

    def _sync(self) -> tuple[int, int]:
        self._check()
        mark = self._written
        self._sync_file()
        if not self._named:
            with translated("syncing the uploads folder"):
                sync_folder(self._part.parent)
            self._named = True
        return mark

    def _sync_file(self) -> None:
        try:
            with translated("syncing an upload"):
                os.fdatasync(self._fd)
        except LongshoreError as error:
            # After a failed sync, for whatever reason, the kernel calls the lost pages clean and the next sync succeeds
            # ("fsyncgate", 2018): nothing that this file says from here on can be believed.
            self._damage = error.message
            raise

    def _sha256(self) -> bytes:
        self._check()
        digest = hashlib.sha256()
        at, end = 0, self.offset
        with translated("reading an upload back"):
            while at < end:
                block = os.pread(self._fd, min(_BLOCK, end - at), at)
                if not block:
                    raise SpoolDamaged(f"The file of an upload ends at byte {at}, before its {end} bytes.")
                digest.update(block)
                at += len(block)
        return digest.digest()

    def _seal(self, payload_id: str) -> None:
        self._check()
        final = self._names.final(payload_id, *self._written)
        self._sync_file()
        with translated("sealing an upload"):
            if self._names.shared:
                self._link(final)
            elif not self._sealed:
                self._part.rename(final)
            self._sealed = True
            # An upload that was sealed before is synced again: its server may have died before the names were durable.
            sync_folder(final.parent)
            if not self._names.shared:
                sync_folder(self._part.parent)

    def _link(self, final: Path) -> None:
        """Give the part its final name, which says what is in the file. A file that has the name already was sealed
        before with the same bytes, by this connection or another one; it may be a payload in use by now, and stays."""
        if self._sealed:
            return
        with contextlib.suppress(FileExistsError):
            try:
                link(self._part, final)
            except FileNotFoundError as error:
                raise UploadTakenOver("Another connection continues this upload; this one may not.") from error
        self._part.unlink(missing_ok=True)

    def _check(self) -> None:
        if self._damage is not None:
            raise SpoolDamaged(self._damage)
        if self._fd < 0:
            raise SpoolDamaged("The file of the upload is closed.")
