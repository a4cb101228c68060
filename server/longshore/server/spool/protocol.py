"""This module has the interface of a spool for the engine: open, write, seal, read, delete.

Rows come before files: an upload is committed before its file is made, so that a crash leaves no file that no row
knows. A payload has the id of the upload that brought it.

A spool that several servers reach (an object store, a shared directory) has no locks: the server that lost an upload
may be asleep, and go on when it wakes. So nothing that such a server can still do may harm. The database numbers the
connections of an upload, and uses no number twice. No connection writes to the file of another or relies on it. A
payload is found by its size and checksum, so that a late seal of other bytes is never taken for it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

from longshore.server.model.task import Payload

BegunWrite: TypeAlias = "asyncio.Future[None] | concurrent.futures.Future[None]"
"""A write under way; `asyncio.wrap_future` makes something to wait for of either."""


class PartialFile(Protocol):
    """The partial file of an upload. One connection has it at a time; blocking work is done off the loop.

    Calls follow each other, except that `sync` may run beside `write`. Cancelling an await does not stop the work
    behind it, so nobody may cancel: shield it, and wait for it before `close`.
    """

    @property
    def offset(self) -> int:
        """Return the number of bytes written so far."""
        ...

    @property
    def crc32c(self) -> int:
        """Return the CRC32C of those bytes."""
        ...

    @property
    def sealed(self) -> bool:
        """Tell whether the upload has its final name and takes no more bytes."""
        ...

    async def write(self, *pieces: bytes | memoryview, crc32c: int | None = None) -> None:
        """Append the pieces. `crc32c` is that of all of them, from a caller that has computed it.

        Raises SpoolFull when there is no room, with everything before still in place; StoreUnavailable when an object
        store does not take what was written before.
        """
        ...

    def begin_write(self, *pieces: bytes | memoryview, crc32c: int | None = None) -> BegunWrite:
        """Begin a `write`. Its end wakes nothing unless a caller waits for it."""
        ...

    async def sync(self) -> tuple[int, int]:
        """Make the written bytes durable, and return (offset, crc32c) of the durable ones.

        Raises SpoolDamaged when a disk could not: nobody knows which bytes it lost, and the file takes no more.
        Raises StoreUnavailable when an object store could not; another sync tries again.
        """
        ...

    async def sha256(self) -> bytes:
        """Read all bytes back, and return their SHA-256."""
        ...

    async def seal(self, payload_id: str) -> None:
        """Make the bytes durable, and readable as the payload of this size and checksum. Sealing again is harmless.
        `payload_id` is the upload's own id."""
        ...

    async def close(self) -> None:
        """Close the file; its durable bytes stay for a resume."""
        ...


class Spool(Protocol):
    """A store of bytes by id."""

    async def open(self) -> None:
        """Open the spool. Raises SpoolRefused if it cannot be used as it was set up, or belongs to another database."""
        ...

    async def close(self) -> None: ...

    @property
    def identity(self) -> str:
        """The 32 random hexadecimal digits kept in the spool itself: servers that read the same ones have the same
        spool. They are known once the spool is open."""
        ...

    async def create(self, upload_id: str, *, connection: int = 1) -> PartialFile:
        """Make the file of an upload that has none yet. `connection` is the number that the database gave."""
        ...

    async def resume(self, upload_id: str, offset: int, crc32c: int, *, connection: int = 2) -> PartialFile:
        """Continue at `offset`, where the bytes so far have the checksum `crc32c`, whichever server wrote them.
        Later bytes do not count. Raises SpoolDamaged when less is there. At offset 0 nothing need be there.

        Of an upload that was sealed already (a server died between seal and commit), a directory of one server opens
        the sealed file as it is; other spools continue at `offset`.
        """
        ...

    def read(self, payload: Payload, offset: int, size: int) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset` on, in pieces of at most `size`. Raises SpoolDamaged when the payload is gone
        or not whole."""
        ...

    def path(self, payload: Payload) -> Path | None:
        """Return the path where a worker on the same disk may read the payload. None means that there is no such path
        or payload."""
        ...

    async def delete_upload(self, upload_id: str) -> None:
        """Remove every file of an upload that was given up, sealed or not, by any of its connections."""
        ...

    async def delete_payload(self, payload_id: str) -> None:
        """Remove a payload, and the rest of its upload."""
        ...

    async def free_bytes(self) -> int:
        """Return the room left where uploads are written, less the disk reserve. It is negative when the reserve is
        touched."""
        ...

    async def files_older_than(self, seconds: float) -> Sequence[str]:
        """Return the ids whose files have all been untouched for so long."""
        ...

    async def to_trash(self, ids: Sequence[str]) -> None:
        """Move files without a row into the trash, and remove files that have been there for a day."""
        ...
