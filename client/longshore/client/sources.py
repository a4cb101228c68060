"""What an upload reads from: bytes at any offset, as often as a resume needs them."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final, Protocol, cast

import google_crc32c

from longshore.client.errors import SourceError

Content = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Iterable[bytes] | AsyncIterable[bytes]
"""A path, the bytes themselves, a binary file (from where it stands), or pieces of bytes one after the other."""

_PIECE: Final = 1024 * 1024
_SCAN: Final = 8 * 1024 * 1024


class Source(Protocol):
    """Bytes of a known size. Its methods block and are called from threads, one at a time."""

    @property
    def size(self) -> int:
        """In bytes."""

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes, or all there are to the end. Raises SourceError when the content became shorter."""

    def check_unchanged(self) -> None:
        """Raise SourceError when what was read may be a mixture of two contents."""


class BytesSource:
    """Bytes in memory."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data: Final = memoryview(data).cast("B")

    @property
    def size(self) -> int:
        return len(self._data)

    def read(self, offset: int, count: int) -> bytes:
        return bytes(self._data[offset : offset + count])

    def check_unchanged(self) -> None:
        """They are the caller's to leave alone."""


class FileSource:
    """A regular file through its descriptor, which stays the caller's; `start` is where the content begins.

    The descriptor is held over every resume: a file that is renamed over the old one does not get in.
    """

    def __init__(self, descriptor: int, *, name: str, start: int = 0) -> None:
        self._descriptor: Final = descriptor
        self._name: Final = name
        self._start: Final = start
        self._before: Final = os.fstat(descriptor)

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
                    raise SourceError(f"{self._name} became shorter while it was being sent", reason="SOURCE_CHANGED")
                data += more
        except OSError as error:
            raise unreadable(self._name, error) from error
        return data

    def check_unchanged(self) -> None:
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns) != (self._before.st_size, self._before.st_mtime_ns):
            raise SourceError(f"{self._name} changed while it was being sent", reason="SOURCE_CHANGED")


class SeekableSource:
    """A binary file object that can seek, from where it stands; nobody else may use it meanwhile."""

    def __init__(self, file: BinaryIO) -> None:
        self._file: Final = file
        self._start: Final = file.tell()
        self._size: Final = file.seek(0, os.SEEK_END) - self._start

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, count: int) -> bytes:
        count = min(count, self._size - offset)
        pieces: list[bytes] = []
        try:
            self._file.seek(self._start + offset)
            while count:
                piece = self._file.read(count)
                if not piece:
                    raise SourceError("the file object became shorter while it was being sent", reason="SOURCE_CHANGED")
                pieces.append(piece)
                count -= len(piece)
        except OSError as error:
            raise unreadable("the file object", error) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def check_unchanged(self) -> None:
        """A file object tells nothing about that."""


def unreadable(name: str, error: OSError) -> SourceError:
    """The SourceError for what the system says."""
    return SourceError(f"cannot read {name}: {error.strerror or error}", reason="SOURCE_UNREADABLE")


@asynccontextmanager
async def open_source(content: Content) -> AsyncIterator[Source]:
    """Make a source of what the caller gave, and clean up after it.

    What cannot be read twice is first copied into an unnamed temporary file (in $TMPDIR): a resume needs it again.
    """
    match content:
        case bytes() | bytearray() | memoryview():
            yield BytesSource(content)
        case str() | os.PathLike():
            with await asyncio.to_thread(_open, Path(content)) as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    yield FileSource(file.fileno(), name=str(content))
                else:
                    async with _kept(_pieces(file), name=str(content)) as source:
                        yield source
        case AsyncIterable():
            async with _kept(content, name="the stream") as source:
                yield source
        case _ if callable(getattr(content, "read", None)):
            file = cast("BinaryIO", content)
            if file.seekable():
                yield SeekableSource(file)
            else:
                async with _kept(_pieces(file), name="the file object") as source:
                    yield source
        case _:
            async with _kept(_threaded(iter(content)), name="the stream") as source:
                yield source


def _open(path: Path) -> BinaryIO:
    try:
        if path.is_dir():
            raise SourceError(f"{path} is a directory; give the files in it", reason="SOURCE_UNREADABLE")
        return path.open("rb", buffering=0)
    except OSError as error:
        raise unreadable(str(path), error) from error


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, _PIECE):
        yield piece


async def _threaded(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """A plain iterator may block, so it is asked in a thread."""
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece


@asynccontextmanager
async def _kept(pieces: AsyncIterable[bytes], *, name: str) -> AsyncIterator[Source]:
    """The pieces in a temporary file without a name: it is gone with this process, however that ends."""
    with tempfile.TemporaryFile(buffering=0) as file:
        async for piece in pieces:
            try:
                await asyncio.to_thread(_write_all, file.fileno(), piece)
            except OSError as error:
                raise _no_room(name, error) from error
        yield FileSource(file.fileno(), name=name)


def _write_all(descriptor: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(descriptor, view) :]


def _no_room(name: str, error: OSError) -> SourceError:
    where = tempfile.gettempdir()
    hint = "; point $TMPDIR to a place with room" if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} else ""
    return SourceError(
        f"cannot keep {name} in {where} to be able to send it again: {error.strerror}{hint}",
        reason="SOURCE_UNREADABLE",
    )


def prefix_crc32c(source: Source, size: int) -> int:
    """CRC32C of the first `size` bytes."""
    crc, offset = 0, 0
    while offset < size:
        data = source.read(offset, min(_SCAN, size - offset))
        crc = google_crc32c.extend(crc, data)
        offset += len(data)
    return crc


def sha256_of(source: Source) -> bytes:
    """SHA-256 of all bytes: 32 bytes."""
    digest, offset = hashlib.sha256(), 0
    while offset < source.size:
        data = source.read(offset, _SCAN)
        digest.update(data)
        offset += len(data)
    return digest.digest()
