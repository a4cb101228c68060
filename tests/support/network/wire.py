"""HTTP/2 by hand, over a unix socket or TCP: what no gRPC library lets one send, and the trailers that come back."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1

Pairs = Sequence[tuple[bytes, bytes]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def message(body: bytes, *, announced: int | None = None, compressed: int = 0) -> bytes:
    """A gRPC message; `announced` bytes, whatever is there."""
    return struct.pack(">BI", compressed, len(body) if announced is None else announced) + body


def _string(raw: bytes) -> bytes:
    if len(raw) < 127:
        return bytes([len(raw)]) + raw
    rest, out = len(raw) - 127, bytearray([127])
    while rest >= 128:
        out.append(rest % 128 | 128)
        rest //= 128
    return bytes([*out, rest]) + raw


def head(path: bytes, metadata: Pairs = ()) -> bytes:
    """A header block of a gRPC call, each field a literal."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *metadata,
    ]
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in fields)


@dataclass
class StreamResult:
    """The value tells how a stream ended. `reset` None means that it ended by trailers."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    messages: bytes = b""
    reset: int | None = None

    @property
    def status(self) -> int | None:
        """Return the gRPC status code. None means that there was none."""
        found = self.headers.get(b"grpc-status")
        return None if found is None else int(found)

    @property
    def reason(self) -> str:
        return self.headers.get(b"longshore-reason", b"").decode()


class WireConnection:
    """One connection. `begin` opens streams, `end_of` reads until one of them is over."""

    def __init__(self, address: str, *, timeout: float = 20.0) -> None:
        if address.startswith("unix:"):
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(address.removeprefix("unix:"))
        else:
            host, _, port = address.rpartition(":")
            self._socket = socket.create_connection((host.strip("[]"), int(port)))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(timeout)
        self._buffer = b""
        self._table: list[tuple[bytes, bytes]] = []
        self._streams: dict[int, StreamResult] = {}
        self._over: set[int] = set()
        self._next = 1
        self.send(PREFACE + frame(SETTINGS, 0, 0) + frame(WINDOW, 0, 0, struct.pack(">I", 1 << 30)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._socket.close()

    def send(self, raw: bytes) -> None:
        self._socket.sendall(raw)

    def begin(self, path: bytes, metadata: Pairs = (), data: bytes = b"", *, end: bool = False) -> int:
        """Open a call, with so much of its messages; answers its stream's number."""
        stream, self._next = self._next, self._next + 2
        self._streams[stream] = StreamResult()
        flags = END_HEADERS | (END_STREAM if end and not data else 0)
        self.send(frame(HEADERS, flags, stream, head(path, metadata)) + data_frames(stream, data, end=end))
        return stream

    def more(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self.send(data_frames(stream, data, end=end))

    def set_timeout(self, timeout: float) -> None:
        """Wait for at most so many seconds from now on."""
        self._socket.settimeout(timeout)

    def reset(self, stream: int) -> None:
        self.send(frame(RESET, 0, stream, struct.pack(">I", 8)))

    def call(self, path: bytes, metadata: Pairs = (), data: bytes = b"") -> StreamResult:
        """A whole call."""
        return self.end_of(self.begin(path, metadata, data, end=True))

    def end_of(self, stream: int) -> StreamResult:
        """Read until the stream is over. Raises TimeoutError, EOFError."""
        while stream not in self._over:
            self._one_frame()
        return self._streams.pop(stream)

    def started(self, stream: int) -> dict[bytes, bytes]:
        """The initial metadata, once it is there."""
        while not (found := self._streams[stream]).headers and stream not in self._over:
            self._one_frame()
        return found.headers

    def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            got = self._socket.recv(1 << 16)
            if not got:
                raise EOFError("the server closed the connection")
            self._buffer += got
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def _one_frame(self) -> None:
        start = self._read(9)
        kind, flags, stream = start[3], start[4], int.from_bytes(start[5:9])
        payload = self._read(int.from_bytes(start[:3]))
        if kind == GOAWAY:
            raise EOFError(f"the server says GOAWAY: {payload[8:]!r}")
        if kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        elif kind == HEADERS:
            # Always decoded: what the block adds to the table counts for the whole connection.
            fields = dict(self._fields(payload))
            if (found := self._streams.get(stream)) is not None:
                found.headers |= fields
        elif kind == DATA and (found := self._streams.get(stream)) is not None:
            found.messages += payload
        elif kind == RESET and (found := self._streams.get(stream)) is not None:
            if stream not in self._over:
                found.reset = int.from_bytes(payload)
            self._over.add(stream)
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            self._over.add(stream)

    # HPACK, as far as gRPC's core uses it -----------------------------------------------------------------------------

    def _fields(self, block: bytes) -> Iterable[tuple[bytes, bytes]]:
        at = 0
        while at < len(block):
            first = block[at]
            if first & 0x80:
                index, at = _integer(block, at, 7)
                yield self._known(index)
            elif first & 0xE0 == 0x20:
                _, at = _integer(block, at, 5)
            else:
                added = first & 0xC0 == 0x40
                index, at = _integer(block, at, 6 if added else 4)
                if index:
                    name = self._known(index)[0]
                else:
                    name, at = _text(block, at)
                value, at = _text(block, at)
                if added:
                    self._table.insert(0, (name, value))
                yield name, value

    def _known(self, index: int) -> tuple[bytes, bytes]:
        if index > 61:
            return self._table[index - 62]
        return (b":status", b"200") if index == 8 else (b"static-%d" % index, b"")


def data_frames(stream: int, data: bytes, *, end: bool) -> bytes:
    """DATA, in frames that every peer takes."""
    pieces = [data[at : at + 16_384] for at in range(0, len(data), 16_384)]
    return b"".join(
        frame(DATA, END_STREAM if end and at == len(pieces) - 1 else 0, stream, piece)
        for at, piece in enumerate(pieces)
    )


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    value = block[at] & ((1 << bits) - 1)
    at += 1
    if value < (1 << bits) - 1:
        return value, at
    shift = 0
    while True:
        value += (block[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not block[at - 1] & 0x80:
            return value, at


def _text(block: bytes, at: int) -> tuple[bytes, int]:
    """Read one text of a header block. Huffman-coded text, as binary metadata is, stays coded."""
    length, start = _integer(block, at, 7)
    return block[start : start + length], start + length
