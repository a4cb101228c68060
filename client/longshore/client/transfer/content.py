"""This module makes a source of the content that a caller gives to an upload: as it is, or by a copy."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import stat
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeAlias, cast

import google_crc32c

from longshore.client.errors import ConfigurationError, SourceError
from longshore.client.transfer.pieces import drawn, in_thread, of_async_iterable, of_file, of_iterable, unreadable
from longshore.client.transfer.sources import (
    READ_AGAIN,
    REMEDY,
    SCAN,
    BytesSource,
    FileSource,
    SeekableSource,
    Source,
    is_fresh,
)
from longshore.client.values.arguments import shown

Content = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Iterable[bytes] | AsyncIterable[bytes]
"""A path, the bytes themselves, a binary file (from where it stands), or pieces of bytes one after the other."""

_TICK: Final = 0.05
"""Seconds after which a change has another time than the last one, on file systems that tell fractions of a second."""
_COPIES: Final = 3
"""Copies that a snapshot makes of a file that changes while it is copied."""


class Changing(StrEnum):
    """The caller chooses how an upload treats a file that is written to meanwhile."""

    REFUSE = "refuse"
    """Make no task, and say so."""
    SNAPSHOT = "snapshot"
    """Copy the file to an unnamed temporary file first."""
    AS_OF_NOW = "as-of-now"
    """Send what the file has at the beginning of the upload; it may only grow meanwhile."""


ChangingName: TypeAlias = Literal["refuse", "snapshot", "as-of-now"]


@asynccontextmanager
async def open_source(content: Content, *, changing: str = Changing.REFUSE) -> AsyncIterator[Source]:
    """Make a source of what the caller gave, and clean up after it.

    What cannot be read twice, and what does not tell its true size (procfs, sysfs, FUSE), is first copied to its end
    into an unnamed temporary file (in $TMPDIR): a resume needs it again. Raises SourceError, ConfigurationError.
    """
    try:
        manner = Changing(changing)
    except ValueError:
        names = ", ".join(f'"{each}"' for each in Changing)
        raise ConfigurationError(f"changing is {changing!r}: give one of {names}") from None
    given: Any = content
    match given:
        case bytes() | bytearray() | memoryview():
            yield BytesSource(given)
        case str() | os.PathLike():
            name = os.fsdecode(given)
            with await in_thread(_open, name) as file:
                mode = _mode_of(file.fileno())
                async with _of_descriptor(file, name=shown(name), start=0, manner=manner, mode=mode) as source:
                    yield source
        case io.TextIOBase():
            raise SourceError("the file object is a text: open it in binary mode ('rb')", reason="SOURCE_UNREADABLE")
        case AsyncIterable():
            async with _kept(of_async_iterable(given), name="the stream", manner=manner) as source:
                yield source
        case _ if callable(getattr(given, "read", None)):
            async with _of_file_object(given, manner) as source:
                yield source
        case Iterable():
            async with _kept(of_iterable(given), name="the stream", manner=manner) as source:
                yield source
        case _:
            raise SourceError(
                f"a {type(given).__name__} is no content: give a path, bytes, a binary file, or an iterator of bytes",
                reason="SOURCE_UNREADABLE",
            )


def _open(name: str) -> BinaryIO:
    path = Path(name)
    try:
        if path.is_dir():
            raise SourceError(f"{shown(name)} is a directory; give the files in it", reason="SOURCE_UNREADABLE")
        return cast("BinaryIO", io.FileIO(name, "rb", opener=_opened_at_once if path.is_fifo() else None))
    except OSError as error:
        raise unreadable(shown(name), error) from error
    except ValueError as error:
        raise SourceError(f"cannot read {name!r}: {error}", reason="SOURCE_UNREADABLE") from error


def _opened_at_once(name: str, flags: int) -> int:
    """Open a named pipe without waiting for its writer, for which the event loop waits later.

    A thread that waits could not be called back: Ctrl-C and every time-out would wait for it.
    """
    return os.open(name, flags | os.O_NONBLOCK)


def _mode_of(descriptor: int) -> int | None:
    """Return the permission bits of a regular file, without set-id and sticky bits. None means that it is no regular
    file."""
    mode = os.fstat(descriptor).st_mode
    return mode & 0o777 if stat.S_ISREG(mode) else None


@asynccontextmanager
async def _of_descriptor(
    file: BinaryIO, *, name: str, start: int, manner: Changing, mode: int | None
) -> AsyncIterator[Source]:
    """Make a source of an open file, buffered or not, that has a descriptor of its own."""
    descriptor = file.fileno()
    before = os.fstat(descriptor)
    if not await in_thread(_has_true_size, descriptor, before):
        pieces = drawn(descriptor, name=name) if isinstance(file, io.RawIOBase) else of_file(file)
        async with _kept(pieces, name=name, manner=manner, mode=mode) as source:
            # A file that was empty a moment ago, and not a file that never tells its size.
            if stat.S_ISREG(before.st_mode) and os.fstat(descriptor).st_size != before.st_size:
                raise SourceError(f"{name} changed while it was being read: {REMEDY}", reason="SOURCE_CHANGED")
            yield source
    elif manner is Changing.SNAPSHOT:
        async with _snapshot(descriptor, name=name, start=start, mode=mode) as source:
            yield source
    else:
        if before.st_size > READ_AGAIN and is_fresh(before):
            await asyncio.sleep(_TICK)
        yield FileSource(descriptor, name=name, start=start, grows=manner is Changing.AS_OF_NOW, mode=mode)


def _has_true_size(descriptor: int, told: os.stat_result) -> bool:
    """Return whether a regular file ends where its size says, or is being written to. Reading at its end tells.

    procfs says 0 and sysfs says 4096, whatever there is to read; a file system in user space says what it likes.
    """
    if not stat.S_ISREG(told.st_mode):
        return False
    try:
        ends = not os.pread(descriptor, 1, told.st_size)
        reaches = told.st_size == 0 or bool(os.pread(descriptor, 1, told.st_size - 1))
        return (ends and reaches) or os.fstat(descriptor).st_size != told.st_size
    except OSError:
        return False


@asynccontextmanager
async def _of_file_object(file: Any, manner: Changing) -> AsyncIterator[Source]:
    name = getattr(file, "name", None)
    name = shown(name) if isinstance(name, str) and name else "the file object"
    try:
        plain = _is_plain(file)
        start = file.tell() if plain and file.seekable() else 0
        if plain and file.writable():
            file.flush()
        seekable = None if plain else await in_thread(_seekable, file)
    except (OSError, EOFError) as error:
        raise unreadable(name, error) from error
    except ValueError as error:  # the file object is closed
        raise SourceError(f"cannot read {name}: {error}", reason="SOURCE_UNREADABLE") from error
    if plain:
        async with _of_descriptor(file, name=name, start=start, manner=manner, mode=None) as source:
            yield source
    elif seekable is not None:
        yield seekable
    else:
        async with _kept(of_file(file), name=name, manner=manner) as source:
            yield source


def _is_plain(file: Any) -> bool:
    """Return whether the file object gives what its descriptor gives. A GzipFile has a descriptor too, and gives
    something else."""
    if type(file) in {io.BufferedReader, io.BufferedRandom}:
        file = file.raw
    return type(file) is io.FileIO


def _seekable(file: Any) -> SeekableSource | None:
    """Make a source that seeks. None means that the file object cannot seek, or does not end where it says."""
    can = getattr(file, "seekable", None)
    if not callable(can) or can() is not True:
        return None
    source = SeekableSource(file)
    try:
        if source.ends_there():
            return source
    except (OSError, EOFError):
        pass  # It is read from where it stands, as if it could not seek.
    source.back()
    return None


@asynccontextmanager
async def _kept(
    pieces: AsyncGenerator[bytes, None], *, name: str, manner: Changing, mode: int | None = None
) -> AsyncIterator[Source]:
    """Keep the pieces in a temporary file without a name, which is gone with this process, however that ends."""
    if manner is Changing.AS_OF_NOW:
        raise SourceError(
            f"{name} has no size, and as-of-now is for regular files: leave it out, and everything to the end is sent",
            reason="SOURCE_UNREADABLE",
        )
    with _temporary(name) as file:
        async with aclosing(pieces):
            async for piece in pieces:
                try:
                    await in_thread(_write_all, file.fileno(), piece)
                except OSError as error:
                    raise _no_room(name, error) from error
        yield FileSource(file.fileno(), name=name, private=True, mode=mode)


@asynccontextmanager
async def _snapshot(descriptor: int, *, name: str, start: int, mode: int | None) -> AsyncIterator[Source]:
    """Copy a file in a moment in which it is not written to. Raises SourceError where there is no such moment."""
    with _temporary(name) as file:
        copy = file.fileno()
        for _ in range(_COPIES):
            original = FileSource(descriptor, name=name, start=start)
            os.ftruncate(copy, 0)
            os.lseek(copy, 0, os.SEEK_SET)
            try:
                crc32c = await _copied(original, copy, name=name)
                await in_thread(original.check_unchanged, crc32c)
            except SourceError as error:
                if error.reason != "SOURCE_CHANGED":
                    raise
                continue
            yield FileSource(copy, name=name, private=True, mode=mode)
            return
    raise SourceError(
        f"{name} changed each of the {_COPIES} times that it was copied: stop what writes to it, or, of a log that "
        'only grows, send what it has now (--as-of-now, changing="as-of-now")',
        reason="SOURCE_CHANGED",
    )


async def _copied(original: FileSource, copy: int, *, name: str) -> int:
    """CRC32C of what was copied."""
    crc32c, offset = 0, 0
    while offset < original.size:
        data = await in_thread(original.read, offset, SCAN)
        try:
            await in_thread(_write_all, copy, data)
        except OSError as error:
            raise _no_room(name, error) from error
        crc32c, offset = google_crc32c.extend(crc32c, data), offset + len(data)
    return crc32c


def _temporary(name: str) -> BinaryIO:
    try:
        return cast("BinaryIO", tempfile.TemporaryFile(buffering=0))
    except OSError as error:
        raise _no_room(name, error) from error


def _write_all(descriptor: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(descriptor, view) :]


def _no_room(name: str, error: OSError) -> SourceError:
    where = tempfile.gettempdir() if error.filename is None else "a temporary directory"
    hint = "; point $TMPDIR to a place with room" if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} else ""
    return SourceError(
        f"cannot keep {name} in {where} to be able to send it again: {error.strerror}{hint}",
        reason="SOURCE_UNREADABLE",
    )
