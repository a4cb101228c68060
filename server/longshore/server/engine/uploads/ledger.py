"""The ledger has the rules for the chunks and the finish of one upload stream. It is pure."""

from __future__ import annotations

import google_crc32c

from longshore.server.model.crc32c import of_tail
from longshore.server.model.errors import (
    ChunkOutOfOrder,
    CrcMismatch,
    InvalidField,
    RequestIdReused,
    Sha256Mismatch,
    SizeMismatch,
)


class UploadLedger:
    """Keeps the books of one upload stream: what it has sent, and whether it may.

    `held` bytes with `held_crc` are there already; `size` is the declared size. `final` means that the held bytes are a
    whole file that was finished before, so that this stream can only repeat it. `chunk_bytes` is the largest chunk.
    """

    def __init__(self, *, held: int, held_crc: int, size: int | None, final: bool, chunk_bytes: int) -> None:
        self._held = held
        self._held_crc = held_crc
        self._size = size
        self._final = final
        self._chunk_bytes = chunk_bytes
        self._start: int | None = None
        self._next = 0
        self._repeated_crc = 0
        """CRC32C of what was sent again from byte 0 on, up to `held`."""

    @property
    def next(self) -> int | None:
        """Return where the next chunk must start. None means that no chunk has come yet."""
        return None if self._start is None else self._next

    def take(self, offset: int, crc32c: int, data: bytes, start: int = 0) -> int:
        """Check a chunk, which is `data` from `start` on; answers where in `data` begins what is new of it, which may
        be at its end.

        Raises InvalidField, ChunkOutOfOrder, CrcMismatch, SizeMismatch, RequestIdReused (other bytes than before).
        """
        size = len(data) - start
        if not 0 < size <= self._chunk_bytes:
            raise InvalidField("chunk.data", f"has {size} bytes; send 1 to {self._chunk_bytes}.")
        self._check_offset(offset)
        end = offset + size
        if self._final and end > self._held:
            raise _other_bytes(f"an earlier try was finished with {self._held} bytes")
        if self._size is not None and end > self._size:
            raise SizeMismatch(f"The header declares {self._size} bytes, and a chunk ends at {end}.")
        if of_tail(data, start) != crc32c:
            raise CrcMismatch(f"The chunk at offset {offset} was damaged on its way. Continue with GetUpload's offset.")
        if self._start is None:
            self._start = offset
        self._next = end
        if offset >= self._held:
            return start
        again = data[start : start + self._held - offset]
        if self._start == 0:
            self._repeated_crc = google_crc32c.extend(self._repeated_crc, again)
            if end >= self._held and self._repeated_crc != self._held_crc:
                raise _other_bytes(f"its first {self._held} bytes differ from what is kept")
        return start + len(again)

    def _check_offset(self, offset: int) -> None:
        if self._start is not None and offset != self._next:
            raise ChunkOutOfOrder(
                f"A chunk starts at {offset}, and the one before ended at {self._next}.", expected=str(self._next)
            )
        if offset > self._held and self._start is None:
            raise ChunkOutOfOrder(
                f"The first chunk starts at {offset}, and only {self._held} bytes are held: start there or before.",
                expected=str(self._held),
            )

    def check_finish(self, size: int, crc32c: int, *, arrived: int, arrived_crc: int) -> None:
        """Compare the finish with what is there, and with the header. Raises SizeMismatch, CrcMismatch,
        RequestIdReused."""
        if (size, crc32c) == (arrived, arrived_crc):
            if self._size is not None and size != self._size:
                raise SizeMismatch(f"The header declares {self._size} bytes, and the finish says {size}.")
            return
        if self._final:
            raise _other_bytes(f"an earlier try was finished with {arrived} bytes, CRC32C {arrived_crc:08x}")
        if size != arrived:
            raise SizeMismatch(f"The finish says {size} bytes, and {arrived} have arrived. Nothing is kept; send anew.")
        raise CrcMismatch(
            f"CRC32C of the whole is {arrived_crc:08x}, and the finish says {crc32c:08x}. Nothing is kept; send anew."
        )


def check_sha256(declared: bytes, found: bytes) -> None:
    """Compare the digest of the whole with the declared one. Raises Sha256Mismatch."""
    if found != declared:
        raise Sha256Mismatch(
            f"SHA-256 of the bytes is {found.hex()}, and the header declares {declared.hex()}. Nothing is kept."
        )


def _other_bytes(how: str) -> RequestIdReused:
    return RequestIdReused(f"This request id came before with different content: {how}. Choose another id.")
