"""This module builds requests and parses answers of SFTP version 3. Pure.

Source: draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL file for the extensions. Whatever the other side sends,
parsing ends in a value or a `ProtocolError`, and holds no more memory than one packet.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

MAX_PACKET: Final = 512 * 1024
"""Longest packet taken, in bytes. We ask for at most 128 KiB at once, and servers cap theirs at 256 KiB."""


class ProtocolError(Exception):
    """The server does not speak SFTP as it should. The connection is of no more use."""


class Kind(IntEnum):
    """Packet types that we use."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    SETSTAT = 9
    FSETSTAT = 10
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    STAT = 17
    STATUS = 101
    HANDLE = 102
    DATA = 103
    ATTRS = 105
    EXTENDED = 200


class OpenFlag(IntEnum):
    """These flags say how a file is opened."""

    READ = 0x01
    WRITE = 0x02
    CREATE = 0x08
    TRUNCATE = 0x10
    EXCLUSIVE = 0x20


OK: Final = 0
EOF: Final = 1
NO_SUCH_FILE: Final = 2
FAILURE: Final = 4

_HAS_SIZE: Final = 0x1
_HAS_OWNER: Final = 0x2
_HAS_MODE: Final = 0x4
_HAS_TIMES: Final = 0x8
_HAS_EXTENDED: Final = 0x80000000


@dataclass(frozen=True, slots=True)
class Answer:
    """One packet: its type, the request it answers (0 for VERSION), and what follows."""

    kind: int
    request: int
    body: bytes


@dataclass(frozen=True, slots=True)
class WireAttributes:
    """File attributes as sent; None where the server sent none. `mode` includes the file type."""

    size: int | None = None
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None


class PacketBuffer:
    """Takes bytes as they come and gives packets as they are complete. Interrupting the reader loses nothing."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._data += data

    def next(self) -> Answer | None:
        """Return the next whole packet. None means that more bytes must come first."""
        if len(self._data) < 4:
            return None
        length = int.from_bytes(self._data[:4], "big")
        if not 5 <= length <= MAX_PACKET:
            raise ProtocolError(f"a packet of {length} bytes is announced")
        if len(self._data) < 4 + length:
            return None
        kind = self._data[4]
        if kind == Kind.VERSION:
            answer = Answer(kind, 0, bytes(self._data[5 : 4 + length]))
        else:
            # All types but VERSION carry the number of the request they answer; INIT is never sent to us.
            answer = Answer(kind, int.from_bytes(self._data[5:9], "big"), bytes(self._data[9 : 4 + length]))
        del self._data[: 4 + length]
        return answer


class _Reader:
    """Reads fields off a packet's body."""

    __slots__ = ("_at", "_body")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._body):
            raise ProtocolError("a packet ends in the middle of a field")
        piece = self._body[self._at : end]
        self._at = end
        return piece

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "big")

    def string(self) -> bytes:
        return self.take(self.u32())

    @property
    def left(self) -> int:
        return len(self._body) - self._at


def string(value: bytes) -> bytes:
    """Write a text as its length and its bytes."""
    return struct.pack(">I", len(value)) + value


def header(kind: Kind, request: int, length: int) -> bytes:
    """Make the head of a request whose remaining parts have `length` bytes."""
    return struct.pack(">IBI", 5 + length, kind, request)


def hello() -> bytes:
    """Make the first packet: version 3."""
    return struct.pack(">IBI", 5, Kind.INIT, 3)


def attributes(*, mode: int | None = None, owner: tuple[int, int] | None = None) -> bytes:
    """Make attributes to set. Only owner or mode at a time: pkg/sftp up to 1.13.5 reads the two in the wrong order."""
    if mode is not None and owner is not None:
        raise ValueError("send owner and mode in two packets")
    if owner is not None:
        return struct.pack(">III", _HAS_OWNER, *owner)
    if mode is not None:
        return struct.pack(">II", _HAS_MODE, mode)
    return struct.pack(">I", 0)


def parse_version(body: bytes) -> tuple[int, dict[str, str]]:
    """Read the protocol version, and the extensions with their versions."""
    reader = _Reader(body)
    version = reader.u32()
    extensions: dict[str, str] = {}
    while reader.left:
        name = reader.string()
        extensions[name.decode("utf-8", "replace")] = reader.string().decode("utf-8", "replace")
    return version, extensions


def parse_status(body: bytes) -> tuple[int, str]:
    """Read the status code and the server's text, which may be missing."""
    reader = _Reader(body)
    code = reader.u32()
    return code, reader.string().decode("utf-8", "replace") if reader.left else ""


def parse_string(body: bytes) -> bytes:
    """Read the one string of a HANDLE or DATA answer."""
    return _Reader(body).string()


def parse_attributes(body: bytes) -> WireAttributes:
    """Read the attributes of an ATTRS answer."""
    reader = _Reader(body)
    flags = reader.u32()
    size = reader.u64() if flags & _HAS_SIZE else None
    uid, gid = (reader.u32(), reader.u32()) if flags & _HAS_OWNER else (None, None)
    mode = reader.u32() if flags & _HAS_MODE else None
    if flags & _HAS_TIMES:
        reader.take(8)
    if flags & _HAS_EXTENDED:
        for _ in range(reader.u32()):
            reader.string()
            reader.string()
    return WireAttributes(size, uid, gid, mode)
