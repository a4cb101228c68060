"""This module keeps the bytes of one upload in memory while they are few, and then writes them into the spool."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import google_crc32c

from longshore.server.engine.uploads.limits import UploadLimits
from longshore.server.model.crc32c import combined
from longshore.server.spool.protocol import BegunWrite, PartialFile, Spool

_VIEWED: Final = 4096
"""Bytes from which on a chunk is kept as a view of its message; a view takes 300 bytes more than a copy."""


class UploadContent:
    """Takes the arriving bytes of an upload. It has at most one write under way and one being gathered in memory, a few
    MiB together.

    If `partial` is None, nothing is in the spool yet, and nothing will be if the content stays small. `hashed` means
    that SHA-256 is wanted: it is computed on the way from byte 0 on, and by reading back after a resume.
    `before_file` is awaited before a file is made. Cancelling an await of any method leaves the work behind it running;
    `drain` waits for it.
    """

    def __init__(
        self,
        *,
        spool: Spool,
        upload_id: str,
        connection: int,
        partial: PartialFile | None,
        hashed: bool,
        limits: UploadLimits,
        before_file: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._spool = spool
        self._upload_id = upload_id
        self._connection = connection
        self._partial = partial
        self._limits = limits
        self._before_file = before_file
        self._digest = hashlib.sha256() if hashed and partial is None else None
        self._offset = partial.offset if partial is not None else 0
        self._gathered: list[bytes | memoryview] = []
        self._gathered_bytes = 0
        self._gathered_crc: int | None = 0
        """CRC32C of the gathered bytes. None means that it is not known."""
        self._writing: BegunWrite | None = None
        self._failure: BaseException | None = None
        """The error of a write. Nothing may be written after it: later bytes would close the gap of the lost ones."""

    @property
    def offset(self) -> int:
        """Return the number of bytes taken so far."""
        return self._offset

    @property
    def crc32c(self) -> int:
        """Return the CRC32C of all bytes taken. It is right after `drain` only."""
        if self._partial is not None:
            return self._partial.crc32c
        return int(google_crc32c.value(b"".join(self._gathered)))

    @property
    def spooled(self) -> bool:
        """Tell whether some of the content is in the spool, or was."""
        return self._partial is not None

    @property
    def sealed(self) -> bool:
        return self._partial is not None and self._partial.sealed

    @property
    def inline(self) -> bytes | None:
        """Return the whole content if it stayed in memory. None means that it did not."""
        return b"".join(self._gathered) if self._partial is None and self._writing is None else None

    async def append(self, data: bytes | memoryview, crc32c: int | None = None) -> None:
        """Take a chunk, and its CRC32C if it is known. Waits while the disk is behind, and raises the error of an
        earlier write."""
        self._check()
        self._gathered.append(data if len(data) >= _VIEWED else bytes(data))
        if crc32c is None or self._gathered_crc is None:
            self._gathered_crc = None
        else:
            self._gathered_crc = combined(self._gathered_crc, crc32c, len(data)) if self._gathered_bytes else crc32c
        self._gathered_bytes += len(data)
        self._offset += len(data)
        if self._partial is None and self._writing is None and self._gathered_bytes <= self._limits.inline_bytes:
            return
        if self._writing is not None:
            if not self._writing.done() and self._gathered_bytes < self._limits.write_bytes:
                return
            await self._written()
        self._start_write()

    async def drain(self) -> None:
        """Wait until all bytes that belong into the spool are written."""
        self._check()
        await self._written()
        if self._gathered and self.inline is None:
            self._start_write()
            await self._written()

    async def sync(self) -> tuple[int, int] | None:
        """Make the written bytes durable, and return their (offset, crc32c). None means that nothing is in the spool.
        The call may run beside `append`."""
        return None if self._partial is None else await self._partial.sync()

    async def sha256(self) -> bytes:
        """Return the SHA-256 of all bytes, after `drain`."""
        if self._partial is None:
            return hashlib.sha256(b"".join(self._gathered)).digest()
        if self._digest is not None:
            return self._digest.digest()
        return await self._partial.sha256()

    async def seal(self) -> None:
        """Make the file durable under its final name, after `drain`. Content that stays in memory needs nothing."""
        if self._partial is not None:
            await self._partial.seal(self._upload_id)

    async def close(self) -> None:
        """Let go of the file."""
        if self._partial is not None:
            await self._partial.close()

    def _start_write(self) -> None:
        pieces, self._gathered = self._gathered, []
        crc32c = self._gathered_crc
        self._gathered_bytes, self._gathered_crc = 0, 0
        if self._partial is not None and self._digest is None:
            # No task, and no wake-up of the loop when it is done: the next chunk finds that out.
            self._writing = self._partial.begin_write(*pieces, crc32c=crc32c)
        else:
            self._writing = asyncio.create_task(self._write(pieces, crc32c), name=f"upload write {self._upload_id}")

    async def _written(self) -> None:
        """Wait for the write under way, without cancelling the write when the waiter is cancelled."""
        writing = self._writing
        if writing is None:
            return
        if not writing.done():
            await asyncio.wait({asyncio.wrap_future(writing)})
        self._writing = None
        self._failure = writing.exception()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _write(self, pieces: list[bytes | memoryview], crc32c: int | None) -> None:
        if self._partial is None:
            if self._before_file is not None:
                await self._before_file()
            self._partial = await self._spool.create(self._upload_id, connection=self._connection)
        if self._digest is None:
            await self._partial.write(*pieces, crc32c=crc32c)
            return
        # Both release the interpreter: the hash costs no time of its own where there is a second core.
        hashing = asyncio.create_task(asyncio.to_thread(_update, self._digest, pieces))
        try:
            await self._partial.write(*pieces, crc32c=crc32c)
        finally:
            await asyncio.wait({hashing})


def _update(digest: Any, pieces: Iterable[bytes | memoryview]) -> None:
    for piece in pieces:
        digest.update(piece)
