"""What the engine needs of a spool: open, write, seal, read, delete.

Rows come before files: an upload is committed before its file is made, so that a crash leaves no file that no row
knows. A payload has the id of the upload that brought it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol


class PartialFile(Protocol):
    """The bytes of an upload under way. One connection has it at a time; blocking work is done off the loop.

    Calls follow each other, except that `sync` may run beside `write`. Cancelling an await does not stop the work
    behind it, so nobody may cancel: shield it, and wait for it before `close`.
    """

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        ...

    @property
    def crc32c(self) -> int:
        """CRC32C of those bytes."""
        ...

    @property
    def sealed(self) -> bool:
        """It has its final name and takes no more bytes."""
        ...

    async def write(self, data: bytes) -> None:
        """Append. Raises SpoolFull when the disk is, with everything before still in place."""
        ...

    async def sync(self) -> tuple[int, int]:
        """Make what is written durable; answers (offset, crc32c) of what is.

        Raises SpoolDamaged when the disk could not: what it lost then is not known, and the file takes no more.
        """
        ...

    async def sha256(self) -> bytes:
        """SHA-256 of all bytes, read back."""
        ...

    async def seal(self, payload_id: str) -> None:
        """Durable, under its final name: file and folder are synced. The partial is gone. Sealing again is harmless."""
        ...

    async def close(self) -> None:
        """Let go of it; the bytes stay for a resume."""
        ...


class Spool(Protocol):
    """A store of bytes by id."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def create(self, upload_id: str) -> PartialFile:
        """The file of an upload that has none yet."""
        ...

    async def resume(self, upload_id: str, offset: int, crc32c: int) -> PartialFile:
        """Continue at `offset`; what lies beyond is cut off. Raises SpoolDamaged when less is there. At offset 0 a
        file that is not there is made.

        A file that is gone because it was sealed under `payload id == upload id` already is opened as it is: a
        server died between seal and commit.
        """
        ...

    def read(self, payload_id: str, offset: int, size: int) -> AsyncIterator[bytes]:
        """The bytes from `offset` on, in pieces of at most `size`. Raises SpoolDamaged when the payload is gone."""
        ...

    def path(self, payload_id: str) -> Path | None:
        """Where a worker on the same disk may read it; None where there is no such place, or no such payload."""
        ...

    async def delete_upload(self, upload_id: str) -> None:
        """Remove whatever there is of an upload that was given up, sealed or not."""
        ...

    async def delete_payload(self, payload_id: str) -> None: ...

    async def free_bytes(self) -> int:
        """Room left where uploads are written, the disk reserve taken off. Negative when the reserve is touched."""
        ...

    async def files_older_than(self, seconds: float) -> Sequence[str]:
        """Ids of files untouched for so long."""
        ...

    async def to_trash(self, ids: Sequence[str]) -> None:
        """Move files without a row aside; the trash is emptied of what has been in it for a day."""
        ...
