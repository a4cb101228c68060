"""An upload reads from a source: bytes at any offset, as often as a resume needs them."""

from __future__ import annotations

import hashlib
import os
import time
from typing import BinaryIO, Final, Protocol

import google_crc32c

from longshore.client.errors import SourceError
from longshore.client.transfer.pieces import as_bytes, unreadable

SCAN: Final = 8 * 1024 * 1024
"""Bytes read at once where content is read for its digest, or copied."""
_FRESH_NS: Final = 1_000_000_000
"""Nanoseconds since the last change for which the time of change proves nothing: kernels tell it in ticks of up to
10 ms, and some file systems in seconds, so a second change may look like the first."""
READ_AGAIN: Final = 64 * 1024 * 1024
"""Bytes of a file that is read a second time for that; with larger ones a tick is waited for, before they are read."""
REMEDY: Final = (
    'send a copy of it (--snapshot, changing="snapshot"), or, of a log that only grows, what it has now (--as-of-now, '
    'changing="as-of-now")'
)
"""The remedy for a file that changed meanwhile."""


class Source(Protocol):
    """Bytes of a known size. Its methods block and are called from threads, one at a time."""

    @property
    def size(self) -> int:
        """The size is in bytes."""

    @property
    def mode(self) -> int | None:
        """The source has the permission bits of the regular file that the caller named. None means that no file was
        named."""

    def read(self, offset: int, count: int) -> bytes:
        """Read exactly `count` bytes, or all there are to the end. Raises SourceError when the content became
        shorter."""

    def check_unchanged(self, crc32c: int) -> None:
        """Raise SourceError when what was read, whose CRC32C is given, may be a mixture of two contents."""


class BytesSource:
    """Bytes in memory."""

    mode: Final = None

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._fixed: Final = isinstance(data, bytes)
        view = memoryview(data)
        self._data: Final = (view if view.c_contiguous else memoryview(bytes(view))).cast("B")

    @property
    def size(self) -> int:
        return len(self._data)

    def read(self, offset: int, count: int) -> bytes:
        return bytes(self._data[offset : offset + count])

    def check_unchanged(self, crc32c: int) -> None:
        if not self._fixed and prefix_crc32c(self, self.size) != crc32c:
            raise SourceError("the buffer was written to while it was being sent: give bytes", reason="SOURCE_CHANGED")


class FileSource:
    """A regular file through its descriptor, which stays the caller's; `start` is where the content begins.

    The descriptor is held over every resume: a file that is renamed over the old one does not get in. With `grows` the
    content ends where the file ended at first, and the file may become longer meanwhile. A `private` file is one that
    nobody else can write to.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        name: str,
        start: int = 0,
        grows: bool = False,
        private: bool = False,
        mode: int | None = None,
    ) -> None:
        self._descriptor: Final = descriptor
        self._name: Final = name
        self._start: Final = start
        self._grows: Final = grows
        self._before: Final = os.fstat(descriptor)
        self._fresh: Final = not private and self._before.st_size <= READ_AGAIN and is_fresh(self._before)
        self.mode: Final = mode

    @property
    def size(self) -> int:
        return max(self._before.st_size - self._start, 0)

    def read(self, offset: int, count: int) -> bytes:
        count = min(count, self.size - offset)
        try:
            data = os.pread(self._descriptor, count, self._start + offset)
            while len(data) < count:
                more = os.pread(self._descriptor, count - len(data), self._start + offset + len(data))
                if not more:
                    raise SourceError(
                        f"{self._name} became shorter while it was being sent: {REMEDY}", reason="SOURCE_CHANGED"
                    )
                data += more
        except OSError as error:
            raise unreadable(self._name, error) from error
        return data

    def check_unchanged(self, crc32c: int) -> None:
        now = os.fstat(self._descriptor)
        same = _moment(now) == _moment(self._before)
        if self._grows:
            if now.st_size < self._before.st_size:
                raise SourceError(
                    f"{self._name} became shorter while it was being sent, and as-of-now is for files that only grow",
                    reason="SOURCE_CHANGED",
                )
        elif not same:
            raise SourceError(f"{self._name} changed while it was being sent: {REMEDY}", reason="SOURCE_CHANGED")
        # Read again only where size and time prove nothing. The time of the content may have been set back, which gives
        # the file another time of change; so do a rename and another mode, which leave the content as it was.
        touched = now.st_ctime_ns != self._before.st_ctime_ns
        if (self._fresh or not same or touched) and prefix_crc32c(self, self.size) != crc32c:
            raise SourceError(
                f"{self._name} was written to where it had been read already: send a copy of it (--snapshot, "
                'changing="snapshot")',
                reason="SOURCE_CHANGED",
            )


def is_fresh(told: os.stat_result) -> bool:
    """Return whether the file was written to a moment ago, so that another change may have the same time."""
    now = time.time_ns()
    # A copy that keeps the time of its original has another time of change.
    return min(abs(now - told.st_mtime_ns), abs(now - told.st_ctime_ns)) < _FRESH_NS


class SeekableSource:
    """A binary file object that can seek, from where it stands; nobody else may use it meanwhile."""

    mode: Final = None

    def __init__(self, file: BinaryIO) -> None:
        self._file: Final = file
        self._start: Final = file.tell()
        self._size: Final = max(self._end() - self._start, 0)

    @property
    def size(self) -> int:
        return self._size

    def ends_there(self) -> bool:
        """Return whether the file object has bytes to the end that it named, and none behind it."""
        self._file.seek(self._start + self._size)
        if self._file.read(1):
            return False
        if self._size:
            self._file.seek(self._start + self._size - 1)
            if not self._file.read(1):
                return False
        return True

    def back(self) -> None:
        """Move the file object back to where it stood."""
        self._file.seek(self._start)

    def read(self, offset: int, count: int) -> bytes:
        count = min(count, self._size - offset)
        pieces: list[bytes] = []
        try:
            self._file.seek(self._start + offset)
            while count:
                given = self._file.read(count)
                piece = as_bytes(given, what=f"read() of the {type(self._file).__name__}", remedy="make it blocking")
                if not piece:
                    raise SourceError("the file object became shorter while it was being sent", reason="SOURCE_CHANGED")
                pieces.append(piece)
                count -= len(piece)
        except (OSError, EOFError) as error:
            raise unreadable("the file object", error) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def check_unchanged(self, crc32c: int) -> None:  # noqa: ARG002 - a second reading may be dear, as of a compressed file
        if self._end() - self._start != self._size:
            raise SourceError("the file object became longer or shorter while it was sent", reason="SOURCE_CHANGED")

    def _end(self) -> int:
        self._file.seek(0, os.SEEK_END)
        return self._file.tell()


def _moment(told: os.stat_result) -> tuple[int, int]:
    """Return a file's size and time: one of them differs after the file was written to."""
    return told.st_size, told.st_mtime_ns


def prefix_crc32c(source: Source, size: int) -> int:
    """Return the CRC32C of the first `size` bytes."""
    crc, offset = 0, 0
    while offset < size:
        data = source.read(offset, min(SCAN, size - offset))
        crc = google_crc32c.extend(crc, data)
        offset += len(data)
    return crc


def sha256_of(source: Source) -> bytes:
    """Return the SHA-256 of all bytes: 32 bytes."""
    digest, offset = hashlib.sha256(), 0
    while offset < source.size:
        data = source.read(offset, SCAN)
        digest.update(data)
        offset += len(data)
    return digest.digest()
