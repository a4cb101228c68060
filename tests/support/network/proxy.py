"""A TCP proxy that breaks connections on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from types import TracebackType
from typing import Final, Self

_PIECE: Final = 64 * 1024


class FaultProxy:
    """Stands on a loopback port before a server. `async with FaultProxy(upstream=("127.0.0.1", 7465)) as proxy`.

    `cut()` resets every open connection; `cut_after(n)` does so once n more bytes have gone up; `stall()` stops moving
    bytes either way and `release()` goes on; `delay` holds each piece back (seconds); `refusing` closes new connections
    at once. All of it may be changed at any time. Leaving the block cuts and closes everything.
    """

    def __init__(self, *, upstream: tuple[str, int] | str) -> None:
        self.upstream: tuple[str, int] | str = upstream
        """A host and port, or the path of a unix socket; may change, as when a server restarts elsewhere."""
        self.delay: float = 0.0
        self.refusing: bool = False
        self.sent_up: int = 0
        """Bytes that went to the server so far, over all connections."""
        self.connections: int = 0
        """Connections taken so far, refused ones included."""
        self._cut_at: int | None = None
        self._flowing: Final = asyncio.Event()
        self._flowing.set()
        self._writers: Final[set[asyncio.StreamWriter]] = set()
        self._handlers: Final[set[asyncio.Task[None]]] = set()
        self._server: asyncio.Server | None = None
        self.port: int = 0

    @property
    def address(self) -> str:
        """HOST:PORT of the proxy."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self._flowing.set()
        self.cut()
        for handler in list(self._handlers):
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection now, as a broken network does: no goodbye, unsent bytes are lost."""
        for writer in list(self._writers):
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.family != socket.AF_UNIX:
                with contextlib.suppress(OSError):
                    # Linger of zero seconds: RST instead of FIN.
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()

    def cut_after(self, count: int) -> None:
        """Cut once `count` more bytes have gone to the server."""
        self._cut_at = self.sent_up + count

    def stall(self) -> None:
        """Stop moving bytes; connections stay open."""
        self._flowing.clear()

    def release(self) -> None:
        """Go on after `stall()`."""
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        self.connections += 1
        writers = [writer]
        self._writers.add(writer)
        try:
            if self.refusing:
                return
            if isinstance(self.upstream, str):
                far_reader, far_writer = await asyncio.open_unix_connection(self.upstream)
            else:
                far_reader, far_writer = await asyncio.open_connection(*self.upstream)
            writers.append(far_writer)
            self._writers.add(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer, up=True))
                group.create_task(self._pump(far_reader, writer, up=False))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # A connection that broke is what this is for.
        finally:
            for each in writers:
                self._writers.discard(each)
                each.transport.abort()
            self._handlers.discard(handler)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        while piece := await reader.read(_PIECE):
            await self._flowing.wait()
            if self.delay:
                await asyncio.sleep(self.delay)
            if up and self._cut_at is not None and self.sent_up + len(piece) >= self._cut_at:
                self._cut_at = None
                self.cut()
                raise ConnectionResetError
            writer.write(piece)
            await writer.drain()
            if up:
                self.sent_up += len(piece)
        if not writer.transport.is_closing() and writer.can_write_eof():
            writer.write_eof()
