"""This module lets one connection at a time send each upload, and takes submissions that need no upload."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import structlog

from longshore.server.engine.sessions.small_payloads import SmallPayloads
from longshore.server.engine.submissions import (
    Defaults,
    PlanRequest,
    SubmitRequest,
    UploadRequest,
    plans,
    upload_fingerprint,
)
from longshore.server.engine.uploads.content import UploadContent
from longshore.server.engine.uploads.disk_room import DiskRoom
from longshore.server.engine.uploads.heartbeats import send_heartbeats
from longshore.server.engine.uploads.ids import RandomIds
from longshore.server.engine.uploads.ledger import UploadLedger
from longshore.server.engine.uploads.limits import UploadLimits, UploadStatistics
from longshore.server.engine.uploads.small import SmallUpload
from longshore.server.engine.uploads.stream import UploadStream
from longshore.server.engine.uploads.stream_slots import StreamSlots
from longshore.server.engine.uploads.submitting import Submitter
from longshore.server.engine.uploads.upload_log import UploadLog
from longshore.server.model.clock import Clock
from longshore.server.model.errors import (
    Draining,
    LongshoreError,
    NotFound,
    SpoolDamaged,
    SpoolFull,
    UploadInProgress,
    UploadTakenOver,
)
from longshore.server.model.servers import HEARD_EVERY, Here
from longshore.server.model.task import Task, Upload
from longshore.server.model.values import UploadState
from longshore.server.spool.protocol import PartialFile, Spool
from longshore.server.store.commands import OpenUpload, RejectUpload
from longshore.server.store.commands.servers import RecordHome
from longshore.server.store.protocol import Store

__all__ = ["UploadLimits", "UploadStatistics", "UploadView", "Uploads"]

R = TypeVar("R")

_LOOK_AGAIN: Final = 0.25
"""Seconds between two looks at an upload that another server is sent."""

_log = structlog.get_logger("longshore.uploads")


@dataclass(frozen=True, slots=True)
class UploadView:
    """An upload as its owner sees it. `active` means that a connection is sending it; `expires_at` is wall clock."""

    upload: Upload
    active: bool
    expires_at: float


class _Slot:
    """The right to send one upload. `stream` is None while it is being opened."""

    __slots__ = ("left", "released", "stream")

    def __init__(self) -> None:
        self.stream: UploadStream | SmallUpload | None = None
        self.released = asyncio.Event()
        """Set when the next connection may have the upload."""
        self.left = asyncio.Event()
        """Set when the connection is over, and so is everything that it left behind."""


def _taken_over() -> UploadTakenOver:
    return UploadTakenOver("Another connection continues this upload; this one may not.")


class Uploads:
    """Serves all uploads of this process, without any knowledge of gRPC.

    `expect_tasks` is called when tasks are about to be committed, so that their claim can share the commit.
    `free_spool` frees spool bytes by evicting payloads that are kept for a retry only; it is called once before
    SpoolFull is raised. `small_payloads` keeps the small payloads that workers need next. `here` means that other
    servers have the database too, and then `run` must be running. Everything that a connection leaves behind (a last
    checkpoint, a commit) runs in tasks that `close` waits for.
    """

    def __init__(
        self,
        *,
        store: Store,
        spool: Spool,
        clock: Clock,
        limits: UploadLimits,
        defaults: Defaults,
        free_spool: Callable[[int], Awaitable[None]] | None = None,
        expect_tasks: Callable[[], None] = lambda: None,
        here: Here | None = None,
        small_payloads: SmallPayloads | None = None,
    ) -> None:
        self.store = store
        self.clock = clock
        self.limits = limits
        self.defaults = defaults
        self.expect_tasks = expect_tasks
        self.here = here
        self.small_payloads = SmallPayloads() if small_payloads is None else small_payloads
        self.room = DiskRoom(spool=spool, clock=clock)
        self.submitter = Submitter(
            store=store,
            room=self.room,
            limits=limits,
            small_payloads=self.small_payloads,
            expect_tasks=expect_tasks,
            free_spool=free_spool,
            own=self.own,
        )
        self._log = UploadLog()
        self._spool = spool
        self._free_spool = free_spool
        self._ids = RandomIds()
        self._stream_slots = StreamSlots(limits.connections, clock)
        self._slots: dict[tuple[str, str], _Slot] = {}
        self._live: set[_Slot] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.leaving = asyncio.Event()
        """Set when no new upload is taken any more."""
        self._bytes_received = 0

    # What callers ask ---------------------------------------------------------------------------------------------

    def is_small(self, request: UploadRequest) -> bool:
        """Tell whether the upload may go through `open_small`: its content is kept in the database, and
        it makes tasks."""
        return request.size is not None and bool(request.task.works) and not self._needs_file(request)

    async def open_small(self, principal: str, request: UploadRequest) -> SmallUpload:
        """Begin a small upload on this connection, without the store. Raises as `open` does, and nothing that only the
        store knows."""
        key, slot = await self._slot(principal, request)
        slot.stream = SmallUpload(
            principal=principal,
            request=request,
            size=request.size or 0,
            upload_id=self._ids.small(),
            owner=self,
            opened=lambda: self._opened(slot, key, request),
            released=lambda: self._leave(key, slot),
        )
        return slot.stream

    async def open(self, principal: str, request: UploadRequest) -> UploadStream:
        """Begin or continue an upload on this connection.

        A connection that is sending the upload already has `limits.patience` seconds to finish. It loses the upload
        when it is silent for `limits.silence` or the request says `take_over`, and has stopped writing before this
        returns.

        Raises UploadInProgress, RequestIdReused, QueueFull, CallerShare, SpoolFull, TooManyUploads, StoreOverloaded,
        SpoolDamaged, Draining, and NotFound, DependencyFailed, OldServers for tasks that the new ones come after. A
        cancelled call leaves the upload as it was, and perhaps a slot taken that expires.
        """
        key, slot = await self._slot(principal, request)
        return await self._opened(slot, key, request)

    async def _slot(self, principal: str, request: UploadRequest) -> tuple[tuple[str, str], _Slot]:
        """Take the right to send, and return it with its key."""
        self._refuse_when_draining()
        self._stream_slots.check(principal, self._slots, taken=len(self._live))
        key = principal, request.request_id
        return key, await self._claim(key, take_over=request.take_over)

    async def _opened(self, slot: _Slot, key: tuple[str, str], request: UploadRequest) -> UploadStream:
        """Open the upload in the store, and on the disk where it has a file."""
        principal = key[0]
        try:
            upload = await self._connect(principal, request)
        except BaseException:
            self._leave(key, slot)
            raise
        if upload.state is UploadState.COMPLETE or upload.connection <= 1:
            return self._stream(slot, key, request, upload, None)
        # Not cut off by a cancel: the file must be let go of before another connection may have it.
        opening = self.own(self._resumed(slot, key, request, upload), f"resume upload {upload.id}")
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._hand_back)
            raise

    async def create(self, principal: str, request: UploadRequest) -> UploadView:
        """Take the room for an upload, or return how far it got. Raises as `open` does, except about connections."""
        self._refuse_when_draining()
        return await self._view(principal, await self._admit(principal, request, connect=False))

    async def get(self, principal: str, request_id: str) -> UploadView:
        """Return how far an upload got. Raises NotFound."""
        upload = await self.store.upload(principal, request_id)
        slot = self._slots.get((principal, request_id))
        if upload is None and slot is not None and isinstance(slot.stream, SmallUpload):
            upload = slot.stream.upload
        if upload is None:
            raise NotFound(f"There is no upload {request_id!r} of yours, or it was given up: start anew.")
        return await self._view(principal, upload)

    async def submit(self, principal: str, request: SubmitRequest, *, any_creator: bool = False) -> Sequence[Task]:
        """Make tasks without an upload. Raises RequestIdReused, QueueFull, CallerShare, PayloadGone, SpoolFull,
        StoreOverloaded, Draining, NotFound, DependencyFailed, OldServers.

        `any_creator` means that the payload, and the tasks that come before, may be anybody's.
        """
        return await self.begin_submit(principal, request, any_creator=any_creator)

    def begin_submit(
        self, principal: str, request: SubmitRequest, *, any_creator: bool = False
    ) -> asyncio.Future[tuple[Task, ...]]:
        """Begin a `submit` without waiting: Draining, StoreOverloaded and StoreUnavailable are raised at once, the rest
        later."""
        self._refuse_when_draining()
        payload_id = "" if request.content is None else self._ids.small()
        return self.submitter.submit(principal, request, payload_id=payload_id, any_creator=any_creator)

    async def submit_plan(self, principal: str, request: PlanRequest, *, any_creator: bool = False) -> Sequence[Task]:
        """Make the tasks of a plan, all or none. A dry run makes none. Raises as `submit` does."""
        self._refuse_when_draining()
        return await self.submitter.plan(principal, request, new_id=self._ids.small, any_creator=any_creator)

    async def run(self) -> None:
        """Tell other servers which uploads are sent here, until cancelled."""
        if self.here is not None:
            await send_heartbeats(
                self.store, self.here, lambda: [slot.stream for slot in self._live if slot.stream is not None]
            )

    def statistics(self) -> UploadStatistics:
        """Return the figures of this moment."""
        streams = [slot.stream for slot in self._live if slot.stream is not None]
        closing = sum(1 for stream in streams if stream.closing)
        return UploadStatistics(len(self._live) - closing, closing, self._bytes_received, self.leaving.is_set())

    async def drain(self, grace: float) -> None:
        """Refuse new uploads; give those under way `grace` seconds, then checkpoint them and end them with Draining."""
        self.leaving.set()
        await self._emptied(grace)
        for slot in self._live:
            if slot.stream is not None:
                slot.stream.end(Draining("This server is leaving. Connect again and continue from GetUpload's offset."))
        await self._emptied(self.limits.detach)

    async def close(self) -> None:
        """End the remaining connections at once, and wait for all work that was begun."""
        await self.drain(0)
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    # What streams need --------------------------------------------------------------------------------------------

    def own(self, work: Coroutine[Any, Any, R], name: str) -> asyncio.Task[R]:
        """Run `work` to its end, even if the caller is cancelled."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def received(self, count: int) -> None:
        """Count bytes that were received."""
        self._bytes_received += count

    def complete(self, upload_id: str, principal: str, size: int, tasks: Sequence[Task]) -> None:
        """Log that an upload is complete."""
        self._log.complete(upload_id, principal, size, tasks)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # The task's awaiter may be gone, and then the error is seen here only.
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, LongshoreError):
            _log.error("upload_defect", task=task.get_name(), exc_info=error)

    # One connection per upload ------------------------------------------------------------------------------------

    def _refuse_when_draining(self) -> None:
        if self.leaving.is_set():
            raise Draining("This server is leaving and takes nothing new. Connect again, here or elsewhere.")

    async def _claim(self, key: tuple[str, str], *, take_over: bool) -> _Slot:
        """Take the right to send, once it is free or can be taken away from the connection that has it."""
        clock, limits = self.clock, self.limits
        until = clock.ticks() + limits.patience
        told: _Slot | None = None
        while (holder := self._slots.get(key)) is not None:
            stream = holder.stream
            silent = stream.silent if stream is not None else 0.0
            due = stream is not None and holder is not told and (take_over or silent >= limits.silence)
            if due and stream is not None and stream.end(_taken_over()):
                told = holder
                until = clock.ticks() + limits.detach
            wait = until - clock.ticks()
            if wait <= 0:
                raise UploadInProgress(
                    "Another connection is sending this upload. Wait for it, or set `take_over` if it is dead."
                )
            if holder is not told:
                wait = min(wait, max(limits.silence - silent, 0.01))  # it may be silent for long enough by then
            try:
                async with asyncio.timeout(wait):
                    await holder.released.wait()
            except TimeoutError:
                pass  # look again
        slot = _Slot()
        self._slots[key] = slot
        self._live.add(slot)
        return slot

    def _free(self, key: tuple[str, str], slot: _Slot) -> None:
        """Let the next connection of the same upload go ahead."""
        if self._slots.get(key) is slot:
            del self._slots[key]
        slot.released.set()

    def _leave(self, key: tuple[str, str], slot: _Slot) -> None:
        self._free(key, slot)
        self._live.discard(slot)
        slot.left.set()
        slot.stream = None  # Each has the other: together they would be there until a collection.

    def _hand_back(self, opening: asyncio.Task[UploadStream]) -> None:
        """Let go of a stream whose caller was cancelled while it was being opened."""
        if not opening.cancelled() and opening.exception() is None:
            _ = self.own(opening.result().detach(), "detach an upload that nobody waited for")

    async def _emptied(self, seconds: float) -> None:
        """Wait until no connection is left, for so long at most."""
        waits = [asyncio.ensure_future(slot.left.wait()) for slot in self._live]
        if waits:
            _, left = await asyncio.wait(waits, timeout=seconds)
            for wait in left:
                wait.cancel()

    # Opening ------------------------------------------------------------------------------------------------------

    async def _resumed(self, slot: _Slot, key: tuple[str, str], request: UploadRequest, upload: Upload) -> UploadStream:
        """Make the stream of an upload that a connection before may have begun to write."""
        try:
            partial = await self._spool.resume(upload.id, upload.offset, upload.crc32c, connection=upload.connection)
        except SpoolDamaged:
            _log.error("upload_damaged", upload_id=upload.id, offset=upload.offset)
            try:
                await self.store.run(RejectUpload(upload_id=upload.id, connection=upload.connection))
            finally:
                self._leave(key, slot)
            raise
        except BaseException:
            self._leave(key, slot)
            raise
        return self._stream(slot, key, request, upload, partial)

    def _stream(
        self,
        slot: _Slot,
        key: tuple[str, str],
        request: UploadRequest,
        upload: Upload,
        partial: PartialFile | None,
    ) -> UploadStream:
        content, held, held_crc = None, upload.offset, upload.crc32c
        if upload.state is not UploadState.COMPLETE:
            content = UploadContent(
                spool=self._spool,
                upload_id=upload.id,
                connection=upload.connection,
                partial=partial,
                hashed=bool(upload.sha256),
                limits=self.limits,
                before_file=self._moving_in(request, upload),
            )
        if partial is not None:
            held, held_crc = partial.offset, partial.crc32c
        elif upload.payload is not None:
            held, held_crc = upload.payload.size, upload.payload.crc32c
        slot.stream = UploadStream(
            upload=upload,
            content=content,
            ledger=UploadLedger(
                held=held,
                held_crc=held_crc,
                size=upload.size,
                final=content is None or content.sealed,
                chunk_bytes=self.limits.chunk_bytes,
            ),
            plans=plans(request.task),
            owner=self,
            released=lambda: self._leave(key, slot),
        )
        if content is None:
            self._free(key, slot)  # nothing is written: any number may repeat it
        return slot.stream

    def _moving_in(self, request: UploadRequest, upload: Upload) -> Callable[[], Awaitable[None]] | None:
        """Return the call that records the upload's home before a file is made. None means that none is needed: there
        are no other servers, or the home was recorded when the upload was opened."""
        here = self.here
        if here is None or upload.connection > 1 or self._needs_file(request):
            return None
        command = RecordHome(upload_id=upload.id, connection=upload.connection, here=here)
        return lambda: self.store.run(command)

    def _needs_file(self, request: UploadRequest) -> bool:
        return request.size is not None and request.size > self.limits.inline_bytes

    async def _connect(self, principal: str, request: UploadRequest) -> Upload:
        """Find or make the row with this connection, and wait a little for one of another server to finish."""
        until = self.clock.ticks() + self.limits.patience
        while True:
            try:
                return await self._admit(principal, request, connect=True)
            except UploadInProgress:
                if self.clock.ticks() > until:
                    raise
            await asyncio.sleep(_LOOK_AGAIN)

    async def _admit(self, principal: str, request: UploadRequest, *, connect: bool) -> Upload:
        """Find or make the row, if there is room for the upload."""
        wanted = self.limits.reserve_step if request.size is None else request.size
        terms = request.task.terms
        command = OpenUpload(
            upload_id=self._ids(),
            principal=principal,
            request_id=request.request_id,
            fingerprint=upload_fingerprint(request),
            queue=terms.queue,
            tasks=len(request.task.works),
            size=request.size,
            sha256=request.sha256,
            reserve=wanted,
            connect=connect,
            bounds=self.limits.bounds,
            here=self.here,
            spooled=self._needs_file(request),
            take_over=request.take_over,
            silence=self.limits.silence,
            terms=terms if terms.after else None,
            any_creator=request.any_creator,
            needs_servers=any(work.needs_servers for work in request.task.works),
        )
        most = self.limits.bounds.spool_bytes
        if most is None or (request.size or 0) <= most:
            # Else the store refuses it for good, unless it was complete before the bound was there.
            await self._require_disk(principal, request.request_id, wanted)
        try:
            return await self.store.run(command)
        except SpoolFull:
            if self._free_spool is None:
                raise
        await self._free_spool(wanted)
        return await self.store.run(command)

    async def _require_disk(self, principal: str, request_id: str, wanted: int) -> None:
        """Raise SpoolFull if the disk has no room for the missing bytes of this upload."""
        try:
            await self.room.require(wanted)
        except SpoolFull:
            known = await self.store.upload(principal, request_id)
            if known is not None:
                if known.state is UploadState.COMPLETE:
                    return
                wanted = max((known.size or known.offset + self.limits.reserve_step) - known.offset, 0)
            if self._free_spool is not None:
                await self._free_spool(wanted)
            await self.room.require(wanted)

    async def _view(self, principal: str, upload: Upload) -> UploadView:
        here, active = self.here, (principal, upload.request_id) in self._slots
        if here is not None and not active and upload.state is UploadState.OPEN and upload.connection:
            home = await self.store.home(upload.id)
            if home is not None and home.sender not in ("", here.server):
                active = self.clock.now() - home.heard_at < self.limits.silence + HEARD_EVERY
            if home is not None and home.away(here) and not active:
                upload = replace(upload, offset=0, crc32c=0)  # where it would go on here
        return UploadView(upload, active, upload.touched_at + self.limits.abandon)
