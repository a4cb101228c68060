"""This module parses the messages of an upload: chunks by hand, all others by protobuf.

Protobuf copies the data of a chunk twice, into the message and out of it. By hand the data stays where it is. Only the
one shape that clients send is parsed by hand: the three fields, each once, in order, lengths in their shortest form,
and not a byte more. Every other message goes to protobuf, which decides what is accepted and what an error says. A test
compares the two.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

from longshore.v1 import task_service_pb2 as pb

_UPLOAD: Final = pb.UploadRequest.DESCRIPTOR.fields_by_name
_FIELDS: Final = pb.UploadChunk.DESCRIPTOR.fields_by_name
_FIXED64, _LENGTH, _FIXED32 = 1, 2, 5

_CHUNK_TAG: Final = _UPLOAD["chunk"].number << 3 | _LENGTH
_CHUNK_START: Final = bytes([_CHUNK_TAG])
_OFFSET_TAG: Final = _FIELDS["offset"].number << 3 | _FIXED64
_CRC_TAG: Final = _FIELDS["crc32c"].number << 3 | _FIXED32
_DATA_TAG: Final = _FIELDS["data"].number << 3 | _LENGTH
_HEAD: Final = struct.Struct("<BQBIB")
_LENGTH_BYTES: Final = 4
"""The most bytes of a varint that are read: more than enough for the largest message that gRPC lets in."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """An UploadChunk. Its data are the bytes of `message` from `start` on."""

    offset: int
    crc32c: int
    message: bytes
    start: int


Request: TypeAlias = "Chunk | pb.UploadRequest"


def parse(message: bytes) -> Request:
    """Return a Chunk if the message is one in the usual shape, else protobuf's message. Raises DecodeError."""
    found = _chunk(message) if message[:1] == _CHUNK_START else None
    return pb.UploadRequest.FromString(message) if found is None else found


def _chunk(message: bytes) -> Chunk | None:
    size = len(message)
    length, at = _varint(message, 1)
    if length != size - at or length <= _HEAD.size:
        return None
    offset_tag, offset, crc_tag, crc32c, data_tag = _HEAD.unpack_from(message, at)
    if offset_tag != _OFFSET_TAG or crc_tag != _CRC_TAG or data_tag != _DATA_TAG:
        return None
    length, at = _varint(message, at + _HEAD.size)
    if length != size - at:
        return None
    return Chunk(offset, crc32c, message, at)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number and where it ends, or (-1, at) if it is no number in its shortest form."""
    value = 0
    for position, byte in enumerate(message[at : at + _LENGTH_BYTES]):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return (value, at + position + 1) if byte or not position else (-1, at)
    return -1, at
