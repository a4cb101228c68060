"""TaskService takes tasks in, and lets callers watch and cancel them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import grpc.aio
import structlog

from longshore.server.edge import batch_calls as batches
from longshore.server.edge import upload_calls as uploads
from longshore.server.edge.auth.principal import principal
from longshore.server.edge.go_ahead import GoAheads
from longshore.server.edge.messages import answer_room, chunks, listing, translate
from longshore.server.edge.messages.validate import check_request_id
from longshore.server.edge.submission_stream import serve_submissions
from longshore.server.edge.visibility import visible
from longshore.server.engine.submissions import Defaults
from longshore.server.engine.uploads.uploads import Uploads
from longshore.server.engine.wait_reasons import WaitReasons
from longshore.server.engine.watch import KeepAlive, Leaving, Progress, Update, WatchHub
from longshore.server.model.errors import InvalidField
from longshore.server.model.task import Task
from longshore.server.store.commands import Bounds, CancelTask, RetryTask
from longshore.server.store.protocol import Store
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import task_service_pb2_grpc as pb_grpc

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_log = structlog.get_logger("longshore.tasks")

_ATTEMPTS_AT_ONCE = 500
"""Attempts in one answer; each may have 16 KiB of an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEngine:
    """Holds the parts of the engine that the service delegates to."""

    store: Store
    uploads: Uploads
    wait_reasons: WaitReasons
    watches: WatchHub
    bounds: Bounds
    defaults: Defaults


class TaskService(pb_grpc.TaskServiceServicer):
    """The RPCs of longshore.v1.TaskService."""

    def __init__(self, engine: TaskEngine) -> None:
        self._engine = engine
        self._store = engine.store
        self._go_aheads = GoAheads()

    async def Upload(self, _requests: AsyncIterator[pb.UploadRequest], context: _Context) -> pb.UploadResponse:
        engine = self._engine
        return await uploads.serve_upload(engine.uploads, engine.wait_reasons, self._go_aheads, principal(), context)

    async def CreateUpload(self, request: pb.CreateUploadRequest, _context: _Context) -> pb.CreateUploadResponse:
        return await uploads.create_upload(self._engine.uploads, self._engine.wait_reasons, principal(), request)

    async def GetUpload(self, request: pb.GetUploadRequest, _context: _Context) -> pb.GetUploadResponse:
        return await uploads.get_upload(self._engine.uploads, self._engine.wait_reasons, principal(), request)

    async def SubmitTask(self, request: pb.SubmitTaskRequest, _context: _Context) -> pb.SubmitTaskResponse:
        return await uploads.submit_task(self._engine.uploads, self._engine.wait_reasons, principal(), request)

    # Reads and writes beside each other, as `Work` does; grpc.aio takes a handler that does not yield too.
    async def SubmitTasks(  # type: ignore[override]
        self, _requests: AsyncIterator[pb.SubmitTasksRequest], context: _Context
    ) -> None:
        await serve_submissions(self._engine.uploads, principal(), context)

    async def SubmitPlan(self, request: pb.SubmitPlanRequest, _context: _Context) -> pb.SubmitPlanResponse:
        return await uploads.submit_plan(self._engine.uploads, self._engine.wait_reasons, principal(), request)

    async def GetBatch(self, request: pb.GetBatchRequest, _context: _Context) -> pb.GetBatchResponse:
        return await batches.get_batch(self._store, self._engine.wait_reasons, principal(), request)

    async def CancelBatch(self, request: pb.CancelBatchRequest, _context: _Context) -> pb.CancelBatchResponse:
        return await batches.cancel_batch(self._store, self._engine.wait_reasons, principal(), request)

    async def GetTask(self, request: pb.GetTaskRequest, _context: _Context) -> pb.GetTaskResponse:
        return pb.GetTaskResponse(task=await self._shown(await self._task(request.task_id)))

    async def ListTasks(self, request: pb.ListTasksRequest, _context: _Context) -> pb.ListTasksResponse:
        query = listing.query_of(request, scope=principal().scope)
        page = await self._store.list_tasks(
            query.where, before=query.before, limit=query.limit, most_bytes=answer_room.MOST_BYTES
        )
        shown = await answer_room.shown(self._store, self._engine.wait_reasons, page, at_least=1)
        resume = page.resume if len(shown) == len(page) else page[len(shown) - 1].submission.seq
        return pb.ListTasksResponse(tasks=shown, next_page_token="" if resume is None else query.token_below(resume))

    async def ListAttempts(self, request: pb.ListAttemptsRequest, _context: _Context) -> pb.ListAttemptsResponse:
        task = await self._task(request.task_id)
        found = await self._store.attempts_after(task.id, number=request.after, limit=_ATTEMPTS_AT_ONCE + 1)
        listed = [translate.attempt(one) for one in found[:_ATTEMPTS_AT_ONCE]]
        attempts = answer_room.fitting(listed, answer_room.AnswerRoom(), at_least=1)
        return pb.ListAttemptsResponse(attempts=attempts, more=len(attempts) < len(found))

    async def WatchTask(self, request: pb.WatchTaskRequest, _context: _Context) -> AsyncIterator[pb.WatchTaskResponse]:
        _require_id(request.task_id)
        after = request.after_revision if request.HasField("after_revision") else None
        caller = principal()
        held, creator = None, caller.scope
        if caller.works and not caller.operator:
            task, held = await visible(self._store, caller, request.task_id)
            creator = task.submission.creator
        updates = self._engine.watches.watch(request.task_id, after=after, creator=creator)
        first = after is None
        async for update in updates:
            if held is not None and isinstance(update, Task):
                held.check(update)
            if first and isinstance(update, Task):
                # The wait is shown as it is now; a later update tells its revision and no more.
                waiting = await self._engine.wait_reasons.of([update], recent=True)
                yield pb.WatchTaskResponse(task=translate.task(update, waiting=waiting.get(update.id)))
            else:
                yield await self._update(update)
            first = False

    async def CancelTask(self, request: pb.CancelTaskRequest, _context: _Context) -> pb.CancelTaskResponse:
        _require_id(request.task_id)
        batches.check_reason(request.reason)
        caller = principal()
        task = await self._store.run(
            CancelTask(
                task_id=request.task_id,
                creator=caller.scope,
                reason=request.reason,
                expected_revision=request.expected_revision if request.HasField("expected_revision") else None,
            )
        )
        _log.info("cancel", task_id=task.id, principal=caller.name, state=task.status.state.name)
        return pb.CancelTaskResponse(task=await self._shown(task, recent=True))

    async def RetryTask(self, request: pb.RetryTaskRequest, _context: _Context) -> pb.RetryTaskResponse:
        _require_id(request.task_id)
        caller = principal()
        task = await self._store.run(
            RetryTask(
                principal=caller.name,
                creator=caller.scope,
                task_id=request.task_id,
                request_id=check_request_id("request_id", request.request_id),
                force=request.force,
                expected_revision=request.expected_revision if request.HasField("expected_revision") else None,
                bounds=self._engine.bounds,
            )
        )
        _log.info("retry", task_id=task.id, retry_of=request.task_id, principal=caller.name, force=request.force)
        return pb.RetryTaskResponse(task=await self._shown(task, recent=True))

    async def _task(self, task_id: str) -> Task:
        _require_id(task_id)
        task, _ = await visible(self._store, principal(), task_id)
        return task

    async def _shown(self, task: Task, *, recent: bool = False) -> task_pb2.Task:
        attempts = await self._store.attempts(task.id, last=translate.ATTEMPTS_SHOWN) if task.status.attempt else ()
        blocked_by = await answer_room.blocked_by(self._store, [task])
        waiting = await self._engine.wait_reasons.of([task], recent=recent)
        return translate.task(
            task, attempts=attempts, blocked_by=blocked_by.get(task.id, ""), waiting=waiting.get(task.id)
        )

    async def _update(self, update: Update) -> pb.WatchTaskResponse:
        match update:
            case Task():
                return pb.WatchTaskResponse(task=translate.task(update))
            case Progress():
                return pb.WatchTaskResponse(
                    progress=task_pb2.Progress(attempt=update.attempt, done=update.done, total=update.total)
                )
            case KeepAlive():
                return pb.WatchTaskResponse(keepalive=pb.Keepalive())
            case Leaving():
                return pb.WatchTaskResponse(go_away=pb.GoAway(reason=update.reason))


def add_task_service(service: TaskService, server: grpc.aio.Server) -> None:
    """Serve the service as the generated function does, but for the messages of uploads: see `chunks`."""
    upload = grpc.stream_unary_rpc_method_handler(
        service.Upload,
        request_deserializer=chunks.parse,
        response_serializer=pb.UploadResponse.SerializeToString,
    )
    name = pb.DESCRIPTOR.services_by_name["TaskService"].full_name
    pb_grpc.add_TaskServiceServicer_to_server(service, server)
    # The last that is registered for a method has it; a test counts that no chunk goes the other way.
    server.add_registered_method_handlers(name, {"Upload": upload})


def _require_id(task_id: str) -> None:
    if not task_id:
        raise InvalidField("task_id", "is empty; give the id of a task.")
