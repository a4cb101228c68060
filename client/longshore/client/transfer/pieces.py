"""This module reads content that comes piece by piece, from descriptors, file objects and iterators, to its true end.

The end is what the source says is the end: no bytes from a descriptor or a file object, the end of an iterator. None is
never the end. A non-blocking file object answers None when there is nothing yet, and such a None, taken for the end,
once made a task of 6 of 19 bytes.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import select
import sys
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from typing import Any, Final, TypeVar

from longshore.client.errors import SourceError

_T = TypeVar("_T")

PIECE: Final = 1024 * 1024
"""Bytes asked for at once."""
_POLL_MS: Final = 200
"""Milliseconds for which a thread waits for a descriptor, so that a cancellation is noticed in between."""
_AGAIN: Final = 0.05
"""Seconds until a device that is always ready, and has nothing, is asked again."""
_END: Final = object()


def unreadable(name: str, error: OSError | EOFError) -> SourceError:
    """Make the SourceError for an error of the system, or of a reader of compressed content."""
    return SourceError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}", reason="SOURCE_UNREADABLE")


async def in_thread(call: Callable[..., _T], *arguments: object) -> _T:
    """Make a short call in a thread, and return its result. A cancellation waits for the thread, because the descriptor
    that it uses is closed next."""
    running = asyncio.ensure_future(asyncio.to_thread(call, *arguments))
    try:
        return await asyncio.shield(running)
    finally:
        if not running.done():
            await asyncio.wait({running})
            running.exception()


async def drawn(descriptor: int, *, name: str) -> AsyncGenerator[bytes, None]:
    """Read a descriptor to its end, whether it blocks or not. Raises SourceError.

    A pipe, socket or terminal is waited for in the event loop and not in a thread, which could not be called back:
    Ctrl-C would wait for the other end of the pipe.
    """
    waits = waited = True
    while True:
        if waits:
            waited = await _readable(descriptor)
        try:
            piece = os.read(descriptor, PIECE) if waited else await in_thread(os.read, descriptor, PIECE)
        except BlockingIOError:
            if not waited:
                await asyncio.sleep(_AGAIN)
            waits = True
            continue  # Another reader that has the same file was faster.
        except OSError as error:
            raise unreadable(name, error) from error
        if not piece:
            return
        yield piece
        # A named pipe whose writers had gone before it was opened is never said to be at its end: reading tells.
        waits = os.get_blocking(descriptor)


async def _readable(descriptor: int) -> bool:
    """Wait until the descriptor has something, or is at its end. False means that such a descriptor cannot be waited
    for."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except (OSError, NotImplementedError):
        # epoll takes no files, of procfs neither, and no devices such as /dev/null, which are always ready.
        return False
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    return True


async def of_file(file: Any) -> AsyncGenerator[bytes, None]:
    """Read a file object to its end. `read` may block, answer None, or be a coroutine. Raises SourceError."""
    asynchronous = inspect.iscoroutinefunction(file.read)
    while True:
        try:
            piece = await file.read(PIECE) if asynchronous else await asyncio.to_thread(_read, file)
        except (OSError, EOFError) as error:
            raise unreadable("the file object", error) from error
        if piece is None:
            await _something(file)
            continue
        data = as_bytes(piece, what=f"read() of the {type(file).__name__}", remedy="open it in binary mode ('rb')")
        if not len(data):
            if missing := _missing(file):
                raise SourceError(
                    f"the connection of the {type(file).__name__} was cut: {missing} bytes are missing at its end",
                    reason="SOURCE_UNREADABLE",
                )
            return
        yield data


def _read(file: Any) -> Any:
    try:
        return file.read(PIECE)
    except StopIteration as error:
        # No future takes it, so a caller that waits for this thread would wait for ever.
        raise SourceError(
            f'read() of the {type(file).__name__} raised StopIteration: return b"" at the end',
            reason="SOURCE_UNREADABLE",
        ) from error


def _missing(file: Any) -> int:
    """Count the bytes that are missing of the body of an HTTP response, whose read() takes a connection that is cut for
    the end."""
    # Nobody has a response without this module, which imports the package `email`.
    http = sys.modules.get("http.client")
    return (file.length or 0) if http is not None and isinstance(file, http.HTTPResponse) else 0


async def _something(file: Any) -> None:
    """Return once a file object that answered None has something. Raises SourceError where there is no way to know."""
    try:
        descriptor = int(file.fileno())
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise SourceError(
            f"read() of the {type(file).__name__} returned None, which means that there is nothing yet, and there is "
            "no descriptor to wait for: make it blocking, or give the bytes themselves",
            reason="SOURCE_UNREADABLE",
        ) from error
    if not await _readable(descriptor):
        await asyncio.to_thread(_polled, descriptor)


def _polled(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(_POLL_MS)


async def of_iterable(pieces: Iterable[Any]) -> AsyncGenerator[bytes, None]:
    """Yield the pieces of a plain iterable, which may block and so is asked in a thread. Raises SourceError."""
    iterator = iter(pieces)
    while (piece := await asyncio.to_thread(next, iterator, _END)) is not _END:
        yield _yielded(piece, pieces)


async def of_async_iterable(pieces: AsyncIterable[Any]) -> AsyncGenerator[bytes, None]:
    """Yield the pieces of an asynchronous iterable. Raises SourceError."""
    async for piece in pieces:
        yield _yielded(piece, pieces)


def _yielded(piece: object, pieces: object) -> bytes:
    return as_bytes(
        piece, what=f"the {type(pieces).__name__}", remedy="yield bytes, and end the iterator where the content ends"
    )


def as_bytes(piece: object, *, what: str, remedy: str) -> bytes:
    """Return a piece that can be written: bytes, bytearray or memoryview. Raises SourceError that names any other
    type."""
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, bytearray | memoryview):
        return bytes(piece)
    if isinstance(piece, str):
        remedy = f"{remedy}; a text is not encoded for you: text.encode()"
    raise SourceError(
        f"{what} gave {_named(piece)} and no bytes, so it is not known where the content goes on: {remedy}",
        reason="SOURCE_UNREADABLE",
    )


def _named(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
