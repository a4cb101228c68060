"""This module sends one upload on into an object store."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from longshore.server.model.errors import SpoolDamaged
from longshore.server.spool.objects.bucket import Objects
from longshore.server.spool.objects.segments import SEGMENT, Mark, Segment
from longshore.server.spool.objects.staging import SLOTS, Staging, StagingFile
from longshore.server.spool.protocol import BegunWrite

Reader = Callable[[str, Sequence[Segment], int, int], AsyncIterator[bytes]]
"""Reads the bytes of a chain, called with (id, chain, offset, size of a piece)."""

_PIECE: Final = 1 << 20


class _WaitingSegment:
    """A segment in the staging file. `put` is the asyncio task that puts it, once no more bytes come to it."""

    __slots__ = ("first", "last", "put", "slot")

    def __init__(self, first: Mark, slot: int) -> None:
        self.first = self.last = first
        self.slot = slot
        self.put: asyncio.Task[None] | None = None

    @property
    def segment(self) -> Segment:
        return Segment(self.first[0], self.last[0], self.first[1], self.last[1])


class ObjectPartial:
    """A PartialFile in an object store. Full segments are put while the next one is written; `sync` puts the rest.

    The object takes no memory of its own: a segment is read from the staging file when a put of the process is free.
    """

    def __init__(
        self,
        *,
        upload_id: str,
        folder: str,
        chain: tuple[Segment, ...],
        end: Mark,
        file: StagingFile,
        staging: Staging,
        objects: Objects,
        read: Reader,
        verify: Callable[[str, Sequence[Segment]], Awaitable[None]],
    ) -> None:
        self._id = upload_id
        self._folder = folder
        self._chain = list(chain)
        """The segments that the store has acknowledged."""
        self._durable = end
        self._written = end
        self._waiting: deque[_WaitingSegment] = deque()
        self._filling: _WaitingSegment | None = None
        self._free = list(range(SLOTS))
        self._turn = asyncio.Lock()
        """Held while bytes go into the segment that is being filled, and while it is cut."""
        self._file = file
        self._staging = staging
        self._objects = objects
        self._read = read
        self._verify = verify
        self._sealed = False
        self._closed = False

    @property
    def offset(self) -> int:
        return self._written[0]

    @property
    def crc32c(self) -> int:
        return self._written[1]

    @property
    def sealed(self) -> bool:
        return self._sealed

    async def write(
        self,
        *pieces: bytes | memoryview,
        crc32c: int | None = None,  # noqa: ARG002 - it counts by segments
    ) -> None:
        self._check()
        if self._sealed:
            raise SpoolDamaged("A sealed payload takes no more bytes.")
        data = b"".join(pieces)
        while data:
            await self._make_room()
            async with self._turn:
                data = await self._fill(data)

    def begin_write(self, *pieces: bytes | memoryview, crc32c: int | None = None) -> BegunWrite:
        return asyncio.create_task(self.write(*pieces, crc32c=crc32c), name=f"write a part of {self._id}")

    async def sync(self) -> Mark:
        self._check()
        async with self._turn:
            self._cut()
            waiting = list(self._waiting)
        for one in waiting:
            if one.put is None or (one.put.done() and one.put.exception() is not None):
                self._start(one)
        await self._put(waiting)
        return self._durable

    async def sha256(self) -> bytes:
        await self.sync()
        digest = hashlib.sha256()
        async for piece in self._read(self._id, self._chain, 0, _PIECE):
            await self._staging.run(lambda piece=piece: digest.update(piece))  # type: ignore[misc]
        return digest.digest()

    async def seal(self, payload_id: str) -> None:
        if payload_id != self._id:
            raise ValueError(f"{payload_id!r} is not the upload's own id")
        await self.sync()
        await self._verify(self._id, self._chain)
        self._sealed = True

    async def close(self) -> None:
        """Wait for the puts under way. Nothing is put for this connection afterwards."""
        if self._closed:
            return
        self._closed = True
        async with self._turn:
            puts = {one.put for one in self._waiting if one.put is not None}
        if puts:
            await asyncio.wait(puts)
            for put in puts:
                if not put.cancelled():
                    put.exception()  # nobody waits for it any more
        await self._staging.run(self._file.close)

    async def _make_room(self) -> None:
        """Wait until a segment can take bytes. Raises the error of an earlier segment."""
        self._collect()
        while self._filling is None and not self._free:
            await self._put([self._waiting[0]])

    async def _fill(self, data: bytes) -> bytes:
        """Write as many bytes as fit into the segment that is being filled, and return the rest."""
        filling = self._filling
        if filling is None:
            if not self._free:
                return data  # `sync` was faster
            filling = self._filling = _WaitingSegment(self._written, self._free.pop())
        offset, crc = self._written
        count = min(len(data), SEGMENT - offset % SEGMENT)
        piece = data if count == len(data) else data[:count]
        at = offset - filling.first[0]
        slot = filling.slot
        crc = await self._staging.run(lambda: self._file.write(slot, at, piece, crc))
        self._written = filling.last = offset + count, crc
        if self.offset % SEGMENT == 0:
            self._cut()
        return data[count:]

    def _cut(self) -> None:
        """End the segment that is being filled, and put it."""
        filling, self._filling = self._filling, None
        if filling is not None:
            self._waiting.append(filling)
            self._start(filling)

    def _start(self, one: _WaitingSegment) -> None:
        one.put = asyncio.create_task(self._put_one(one), name=f"put a segment of {self._id}")

    async def _put_one(self, one: _WaitingSegment) -> None:
        async with self._objects.puts:
            segment, slot = one.segment, one.slot
            data, md5 = await self._staging.run(lambda: self._file.read(slot, segment.size))
            if len(data) != segment.size:
                raise SpoolDamaged(f"Of {segment.size} bytes on the local disk {len(data)} are left.")
            await self._objects.put(f"{self._folder}/{segment.name}", data, md5)

    async def _put(self, some: Sequence[_WaitingSegment]) -> None:
        """Wait for the puts of these segments. Raises the first error."""
        puts = {one.put for one in some if one.put is not None}
        if puts:
            # `asyncio.wait` does not cancel them: a put goes on when its waiter is cancelled.
            await asyncio.wait(puts)
        self._collect()
        for put in (one.put for one in some):
            if put is not None:
                put.result()

    def _collect(self) -> None:
        """Take over the segments that the store has acknowledged, in order. Raises the error of the first that
        failed."""
        while self._waiting:
            put = self._waiting[0].put
            if put is None or not put.done():
                return
            put.result()
            one = self._waiting.popleft()
            self._free.append(one.slot)
            self._chain.append(one.segment)
            self._durable = one.last

    def _check(self) -> None:
        if self._closed:
            raise SpoolDamaged("The file of the upload is closed.")
