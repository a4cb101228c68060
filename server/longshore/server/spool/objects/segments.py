"""Segments are the pieces of a payload in an object store. One segment is one object, put with one request, so that
nothing half done is ever left to be removed.

An object's name says which bytes it has, and the checksum of everything before it and up to its end. So segments form a
chain from (0, 0) to (size, crc32c), no matter which connection put them: a payload is any chain that ends at its size
and checksum. A segment that a superseded connection put after another checkpoint is on no chain, or has the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

SEGMENT: Final = 8 << 20
"""Bytes of a segment at most, and where segments end: at its multiples, and where an upload was synced. Half of it
costs twice the requests; twice of it, twice the memory for as many requests at once."""

_NAME: Final = re.compile(r"([0-9a-f]{16})\.([0-9a-f]{16})\.([0-9a-f]{8})\.([0-9a-f]{8})")

Mark = tuple[int, int]
"""(offset, CRC32C of the bytes before it)"""


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """The bytes from `start` to before `end`, with the checksums of everything before each."""

    start: int
    end: int
    crc_start: int
    crc_end: int

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def first(self) -> Mark:
        return self.start, self.crc_start

    @property
    def last(self) -> Mark:
        return self.end, self.crc_end

    @property
    def name(self) -> str:
        return f"{self.start:016x}.{self.end:016x}.{self.crc_start:08x}.{self.crc_end:08x}"


def parse(name: str, size: int) -> Segment | None:
    """Read the segment of an object's name and size. None means that the object is no segment, or is not whole."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    start, end, crc_start, crc_end = (int(group, 16) for group in match.groups())
    return Segment(start, end, crc_start, crc_end) if end > start and end - start == size else None


def chain(segments: Iterable[Segment], end: Mark) -> tuple[Segment, ...] | None:
    """Find the segments that lead from nothing to `end`, in order. None means that there is a gap."""
    before: dict[Mark, Segment | None] = {(0, 0): None}
    for segment in sorted(segments):
        if segment.first in before and segment.last not in before:
            before[segment.last] = segment
    if end not in before:
        return None
    found: list[Segment] = []
    while (segment_before := before[end]) is not None:
        found.append(segment_before)
        end = segment_before.first
    return tuple(reversed(found))
