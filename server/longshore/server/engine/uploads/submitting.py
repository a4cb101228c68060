"""Tasks are made with one command here: without bytes, with bytes in the request, or of a small upload."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol

from longshore.server.engine.sessions.small_payloads import SmallPayloads
from longshore.server.engine.submissions import (
    PlanRequest,
    SubmitRequest,
    UploadRequest,
    plan_fingerprint,
    plans,
    submit_fingerprint,
    upload_fingerprint,
)
from longshore.server.engine.uploads.disk_room import DiskRoom
from longshore.server.engine.uploads.limits import UploadLimits
from longshore.server.model.errors import SpoolFull
from longshore.server.model.task import Payload, Task
from longshore.server.store.commands import StepPlan, SubmitPlan, SubmitTasks
from longshore.server.store.protocol import Store

Begun = asyncio.Future[tuple[Task, ...]]
"""The tasks, once they are durable. Cancelling it does not take the command back."""


class Own(Protocol):
    """Runs a coroutine to its end, even if its caller is cancelled."""

    def __call__(self, work: Coroutine[Any, Any, tuple[Task, ...]], name: str) -> asyncio.Task[tuple[Task, ...]]: ...


class Submitter:
    """Gives the store the commands that make tasks at once. See `Uploads` for the arguments."""

    def __init__(
        self,
        *,
        store: Store,
        room: DiskRoom,
        limits: UploadLimits,
        small_payloads: SmallPayloads,
        expect_tasks: Callable[[], None],
        free_spool: Callable[[int], Awaitable[None]] | None,
        own: Own,
    ) -> None:
        self._store = store
        self._room = room
        self._limits = limits
        self._small_payloads = small_payloads
        self._expect_tasks = expect_tasks
        self._free_spool = free_spool
        self._own = own

    def submit(self, principal: str, request: SubmitRequest, *, payload_id: str, any_creator: bool) -> Begun:
        """Begin to make the tasks of a submission. A file that comes with it gets the id `payload_id`.

        StoreOverloaded and StoreUnavailable are raised at once, the rest later.
        """
        payload, content = None, b""
        if request.content is not None:
            content = request.content
            payload = Payload(payload_id, len(content), request.crc32c)
            self._small_payloads.put(payload_id, content)
        command = SubmitTasks(
            principal=principal,
            request_id=request.request_id,
            fingerprint=submit_fingerprint(request),
            plans=plans(request.task),
            payload_id=request.payload_id,
            payload=payload,
            content=content,
            any_creator=any_creator,
            bounds=self._limits.bounds,
        )
        return self._begin(command, has_room=payload is None or self._room.take(payload.size))

    def upload(
        self, principal: str, request: UploadRequest, payload: Payload, content: bytes, *, has_room: bool
    ) -> Begun:
        """Begin to make the tasks of a small upload that has arrived whole. `has_room` says that the disk has room.

        Raises as `submit` does.
        """
        self._small_payloads.put(payload.id, content)
        command = SubmitTasks(
            principal=principal,
            request_id=request.request_id,
            fingerprint=upload_fingerprint(request),
            plans=plans(request.task),
            payload=payload,
            content=content,
            uploaded=True,
            any_creator=request.any_creator,
            bounds=self._limits.bounds,
        )
        return self._begin(command, has_room=has_room)

    def plan(self, principal: str, request: PlanRequest, *, new_id: Callable[[], str], any_creator: bool) -> Begun:
        """Begin to make the tasks of a plan. Files that come with it get new ids. Raises as `submit` does."""
        steps = []
        for step in request.steps:
            submission, payload = step.submission, None
            if submission.content is not None:
                payload = Payload(new_id(), len(submission.content), submission.crc32c)
                if not request.dry_run:
                    self._small_payloads.put(payload.id, submission.content)
            [plan] = plans(submission.task)
            steps.append(StepPlan(plan, step.after_steps, submission.payload_id, payload, submission.content or b""))
        command = SubmitPlan(
            principal=principal,
            request_id=request.request_id,
            fingerprint=plan_fingerprint(request),
            steps=tuple(steps),
            dry_run=request.dry_run,
            any_creator=any_creator,
            bounds=self._limits.bounds,
        )
        size = command.content_size
        return self._begin(command, has_room=request.dry_run or not size or self._room.take(size))

    async def make_room(self, size: int) -> None:
        """Take so many bytes of the disk. Raises SpoolFull."""
        try:
            await self._room.require(size)
        except SpoolFull:
            if self._free_spool is None:
                raise
            await self._free_spool(size)
            await self._room.require(size)
        self._room.take(size)

    def _begin(self, command: SubmitTasks | SubmitPlan, *, has_room: bool) -> Begun:
        if not has_room:
            return self._own(self._where_room(command), "submit a small file")
        begun = self._store.begin(command)
        self._expect_tasks()
        return begun

    async def _where_room(self, command: SubmitTasks | SubmitPlan) -> tuple[Task, ...]:
        """Run `command` once there is room on the disk for its content."""
        try:
            await self.make_room(command.content_size)
        except SpoolFull:
            # A request that came before is answered all the same; nothing new finds room.
            return await self._store.run(replace(command, bounds=replace(command.bounds, spool_bytes=0)))
        begun = self._store.begin(command)
        self._expect_tasks()
        return await begun
