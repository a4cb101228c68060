"""Chunks as they go over the wire, put together by hand.

`UploadRequest(chunk=...)` would copy each MiB twice more than needed: into the message and out of it. A test holds
this against protobuf's own parser.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from typing import Final

import google_crc32c

from longshore.client.transfer.sources import Source
from longshore.v1 import task_service_pb2

CHUNK_SIZE: Final = 1024 * 1024
"""Bytes in a chunk: the size the contract recommends."""
BATCH_SIZE: Final = 4 * CHUNK_SIZE
"""Bytes read at once in a thread. Two such batches of an upload are in memory: one being sent, one being read."""

_KEPT: Final = 2 * BATCH_SIZE
"""The C library keeps up to twice as many bytes of freed memory, for frames to come."""

_UPLOAD: Final = task_service_pb2.UploadRequest.DESCRIPTOR.fields_by_name
_CHUNK: Final = task_service_pb2.UploadChunk.DESCRIPTOR.fields_by_name
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

_CHUNK_TAG: Final = bytes([_UPLOAD["chunk"].number << 3 | _LENGTH])
_FIELDS: Final = struct.Struct("<BQBIB")
_OFFSET_TAG: Final = _CHUNK["offset"].number << 3 | _FIXED64
_CRC_TAG: Final = _CHUNK["crc32c"].number << 3 | _FIXED32
_DATA_TAG: Final = _CHUNK["data"].number << 3 | _LENGTH


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def chunk_frame(offset: int, data: bytes) -> bytes:
    """An UploadRequest with one chunk, serialized."""
    fields = _FIELDS.pack(_OFFSET_TAG, offset, _CRC_TAG, google_crc32c.value(data), _DATA_TAG)
    length = _varint(len(data))
    return b"".join((_CHUNK_TAG, _varint(len(fields) + len(length) + len(data)), fields, length, data))


@cache
def keep_memory() -> None:
    """Let the C library keep the memory of frames that were sent for the next ones, once for this process.

    glibc gives each freed MiB back to the kernel, which zeroes it for the next frame: that took half of the CPU time of
    an upload. A block that was mapped and freed raises glibc's thresholds to its size; nothing touches its pages.
    """
    _ = bytes(_KEPT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Chunks ready to be sent: `end` is the offset after them and `crc32c` that of everything up to there."""

    frames: tuple[bytes, ...]
    end: int
    crc32c: int


def read_batch(source: Source, *, offset: int, crc32c: int) -> Batch:
    """The next chunks from `offset` on, given the CRC32C of all before it; no frames at the end. Blocks."""
    if source.size > BATCH_SIZE:
        keep_memory()
    frames: list[bytes] = []
    stop = min(offset + BATCH_SIZE, source.size)
    while offset < stop:
        data = source.read(offset, min(CHUNK_SIZE, stop - offset))
        frames.append(chunk_frame(offset, data))
        crc32c = google_crc32c.extend(crc32c, data)
        offset += len(data)
    return Batch(frames=tuple(frames), end=offset, crc32c=crc32c)
