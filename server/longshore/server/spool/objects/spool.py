"""A spool in an object store has `payloads/XX/ID/SEGMENT` (XX: the id's first two characters),
`trash/SECONDS/ID/SEGMENT`, and the object `identity`. `segments` says what segments are.

Any number of servers share it. Nothing is ever moved or changed in place: a resume finds the chain to its checkpoint,
sealing checks that the chain is whole, and the database says which size and checksum the payload has.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from longshore.server.model.errors import LongshoreError, SpoolDamaged, StoreUnavailable
from longshore.server.model.task import Payload
from longshore.server.spool.directory.names import ID, checked
from longshore.server.spool.errors import SpoolRefused
from longshore.server.spool.identity import NAME, Identity
from longshore.server.spool.objects.bucket import Objects, no_answer, remedy
from longshore.server.spool.objects.partial import ObjectPartial
from longshore.server.spool.objects.segments import SEGMENT, Mark, Segment, chain, parse
from longshore.server.spool.objects.staging import SLOTS, Staging

_PAYLOADS: Final = "payloads"
_TRASH: Final = "trash"
_TRASH_KEPT: Final = 24 * 3600.0
_ENDLESS: Final = 1 << 60
_BLOCK: Final = 4 << 20
"""Bytes of one request of a download: a request of 4 MiB takes little more than one of 1 MiB."""
_READING: Final = 64 << 20
"""Memory of all downloads together, as long as there are not more than a hundred: each has one block that goes out and
one that is fetched meanwhile."""
_REMOVALS: Final = 16
"""Uploads and payloads that are removed at once, in two requests each."""
_LEAST_BLOCK: Final = 256 << 10


class ObjectSpool:
    """The spool in `objects`. Chunks wait on the local disk in `staging`. `database` is the database that the spool
    belongs to, `where` the words for it in messages, `now` the wall clock with which the store's times are compared."""

    def __init__(
        self,
        *,
        objects: Objects,
        staging: Staging,
        where: str,
        database: str = "",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._objects = objects
        self._staging = staging
        self._where = where
        self._database = database
        self._now = now
        self._identity = ""
        self._readers = 0
        self._removals = asyncio.Semaphore(_REMOVALS)

    async def open(self) -> None:
        await self._staging.open()
        await self._try()
        content = await self._objects.get(NAME)
        if content is None:
            await self._objects.create(NAME, Identity.new(self._database).content())
            # The identity is read back, because another server may have been faster.
            content = await self._objects.get(NAME)
        self._identity = Identity.read(content or b"", where=self._where, database=self._database).spool
        await self._empty_trash()

    async def close(self) -> None:
        await self._staging.close()

    @property
    def identity(self) -> str:
        return self._identity

    async def create(self, upload_id: str, *, connection: int = 1) -> ObjectPartial:
        del connection  # segments of all connections fit together, or are on no chain
        return await self._partial(upload_id, (), (0, 0))

    async def resume(self, upload_id: str, offset: int, crc32c: int, *, connection: int = 2) -> ObjectPartial:
        del connection
        if not offset:
            return await self._partial(upload_id, (), (0, 0))
        found = await self._chain(upload_id, (offset, crc32c))
        return await self._partial(upload_id, found, (offset, crc32c))

    async def read(self, payload: Payload, offset: int, size: int) -> AsyncIterator[bytes]:
        if offset >= payload.size:
            return
        whole = Segment(0, payload.size, 0, payload.crc32c)
        first: bytes | None = None
        segments: tuple[Segment, ...] = (whole,)
        if payload.size <= SEGMENT:
            # Most often it is one segment, whose name is known.
            count = min(payload.size - offset, self._block())
            first = await self._objects.get_range(self._path(payload.id, whole), offset, count)
        if first is None:
            segments = await self._chain(payload.id, whole.last)
        else:
            for piece in _pieces(first, size):
                yield piece
            offset += len(first)
        async with contextlib.aclosing(self._read(payload.id, segments, offset, size)) as pieces:
            async for piece in pieces:
                yield piece

    def path(self, payload: Payload) -> Path | None:
        del payload
        return None

    async def delete_upload(self, upload_id: str) -> None:
        async with self._removals:
            names = [name async for name, _ in self._names(upload_id)]
            await self._objects.delete([f"{self._folder(upload_id)}/{name}" for name in names])

    async def delete_payload(self, payload_id: str) -> None:
        await self.delete_upload(payload_id)

    async def free_bytes(self) -> int:
        free = await self._staging.free_bytes()
        # The store has no end; only the local disk that bytes pass through can be full.
        return _ENDLESS if free > SLOTS * SEGMENT else min(free - SLOTS * SEGMENT, 0)

    async def files_older_than(self, seconds: float) -> Sequence[str]:
        newest: dict[str, float] = {}
        async for entry in self._objects.list(_PAYLOADS):
            match entry.path.split("/"):
                case [_, folder, one, _] if one.startswith(folder) and ID.fullmatch(one):
                    newest[one] = max(newest.get(one, 0.0), entry.made_at)
                case _:
                    pass  # somebody's
        before = self._now() - seconds
        return sorted(one for one, made_at in newest.items() if made_at < before)

    async def to_trash(self, ids: Sequence[str]) -> None:
        aside = f"{_TRASH}/{int(self._now())}"
        for one in ids:
            names = [name async for name, _ in self._names(one)]
            async with asyncio.TaskGroup() as copies:
                for name in names:
                    copies.create_task(self._objects.copy(f"{self._folder(one)}/{name}", f"{aside}/{one}/{name}"))
            await self._objects.delete([f"{self._folder(one)}/{name}" for name in names])
        await self._empty_trash()

    # Names --------------------------------------------------------------------------------------------------------

    def _folder(self, one: str) -> str:
        return f"{_PAYLOADS}/{checked(one)[:2]}/{one}"

    def _path(self, one: str, segment: Segment) -> str:
        return f"{self._folder(one)}/{segment.name}"

    async def _names(self, one: str) -> AsyncIterator[tuple[str, int]]:
        """Return (name, size) of every object of an upload or payload."""
        async for entry in self._objects.list(self._folder(one)):
            yield entry.path.rpartition("/")[2], entry.size

    async def _segments(self, one: str) -> list[Segment]:
        return [segment async for name, size in self._names(one) if (segment := parse(name, size)) is not None]

    async def _chain(self, one: str, end: Mark) -> tuple[Segment, ...]:
        found = chain(await self._segments(one), end)
        if found is None:
            raise SpoolDamaged(f"Of {end[0]} bytes that were durable some are missing in the object store.")
        return found

    # Work ---------------------------------------------------------------------------------------------------------

    async def _partial(self, upload_id: str, segments: tuple[Segment, ...], end: Mark) -> ObjectPartial:
        return ObjectPartial(
            upload_id=upload_id,
            folder=self._folder(upload_id),
            chain=segments,
            end=end,
            file=await self._staging.file(),
            staging=self._staging,
            objects=self._objects,
            read=self._read,
            verify=self._check_whole,
        )

    async def _check_whole(self, one: str, segments: Sequence[Segment]) -> None:
        """Raise SpoolDamaged unless each of these segments is there, and whole."""
        missing = set(segments).difference(await self._segments(one)) if segments else set()
        if missing:
            raise SpoolDamaged(f"Byte {min(missing).start} of an upload is missing in the object store.")

    async def _read(self, one: str, segments: Sequence[Segment], offset: int, size: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a chain from `offset` on; the next block is fetched while one goes out."""
        self._readers += 1
        ahead: asyncio.Task[bytes] | None = None
        try:
            for segment in segments:
                at = max(offset, segment.start)
                while at < segment.end:
                    count = min(segment.end - at, max(self._block(), size))
                    fetched, ahead = ahead, asyncio.create_task(self._fetch(one, segment, at, count))
                    at += count
                    if fetched is not None:
                        for piece in _pieces(await fetched, size):
                            yield piece
            if ahead is not None:
                fetched, ahead = ahead, None
                for piece in _pieces(await fetched, size):
                    yield piece
        finally:
            self._readers -= 1
            if ahead is not None:
                ahead.cancel()
                await asyncio.wait({ahead})
                if not ahead.cancelled():
                    ahead.exception()

    async def _fetch(self, one: str, segment: Segment, at: int, count: int) -> bytes:
        found = await self._objects.get_range(self._path(one, segment), at - segment.start, count)
        if found is None:
            raise SpoolDamaged(f"Byte {at} of payload {one} is missing in the object store.")
        return found

    def _block(self) -> int:
        return max(min(_BLOCK, _READING // (2 * max(self._readers, 1))), _LEAST_BLOCK)

    async def _try(self) -> None:
        """Try every request that a spool makes, so that a start says which permission is missing. Raises SpoolRefused,
        and StoreUnavailable while there is no answer."""
        # The object is young, so that another server that empties the trash at the same time leaves it alone.
        folder = f"{_TRASH}/{int(self._now())}"
        path = f"{folder}/{secrets.token_hex(8)}"
        try:
            await self._objects.create(path, b"-")
            found = [entry.path async for entry in self._objects.list(folder)]
            whole = await self._objects.get(path)
            await self._objects.delete([path])
        except LongshoreError as error:
            message = f"{self._where} cannot be used: {error.message} {remedy(error)}"
            if no_answer(error):
                raise StoreUnavailable(message) from error
            raise SpoolRefused(message) from error
        if path not in found or whole != b"-":
            raise SpoolRefused(f"{self._where} does not list or return an object that was just put there.")

    async def _empty_trash(self) -> None:
        before = self._now() - _TRASH_KEPT
        old: list[str] = []
        async for entry in self._objects.list(_TRASH):
            seconds = entry.path.split("/")[1]
            if seconds.isdigit() and int(seconds) < before:
                old.append(entry.path)
        await self._objects.delete(old)


def _pieces(data: bytes, size: int) -> Iterable[bytes]:
    return [data] if len(data) <= size else (data[at : at + size] for at in range(0, len(data), size))
