"""The upload RPCs: messages to calls of the engine, in the order that the contract asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc.aio

from longshore.server.edge.auth.principal import Principal
from longshore.server.edge.go_ahead import GoAhead, GoAheads, send_go_ahead
from longshore.server.edge.messages import translate
from longshore.server.edge.messages.answer_room import shown
from longshore.server.edge.messages.chunks import Chunk, Request
from longshore.server.edge.messages.validate import check_request_id, plan_request, submit_request, upload_request
from longshore.server.engine.submissions import UploadRequest
from longshore.server.engine.uploads.small import SmallUpload
from longshore.server.engine.uploads.stream import UploadStream
from longshore.server.engine.uploads.uploads import Uploads, UploadView
from longshore.server.engine.wait_reasons import WaitReasons
from longshore.server.model.errors import InvalidField, LongshoreError, ProtocolViolation, UploadBroken
from longshore.server.model.task import Task
from longshore.v1 import task_service_pb2 as pb

_Context = grpc.aio.ServicerContext[Any, Any]


async def serve_upload(
    uploads: Uploads, wait_reasons: WaitReasons, go_aheads: GoAheads, principal: Principal, context: _Context
) -> pb.UploadResponse:
    """Serve one Upload call. Raises LongshoreErrors; what arrived before is then kept or not as UploadStream says."""
    header = await _header(context, uploads.limits.idle)
    request = upload_request(header, uploads.defaults, any_creator=principal.operator)
    if uploads.is_small(request):
        tasks = await _small(uploads, go_aheads, principal, request, context)
        payload = tasks[0].submission.payload
    else:
        async with await uploads.open(principal.name, request) as stream:
            await send_go_ahead(stream, context)
            finish = await _receive(stream, context)
            done = await stream.finish(finish.size, finish.crc32c)
        tasks, payload = done.tasks, done.payload
    if payload is None:
        raise LongshoreError("A finished upload without a payload.")
    kept = None if tasks else await uploads.store.kept_until(payload.id)
    return pb.UploadResponse(
        tasks=await shown(uploads.store, wait_reasons, tasks, recent=True),
        payload=translate.payload(payload),
        task_ids=[task.id for task in tasks],
        keep_until=None if kept is None else translate.timestamp(kept),
    )


async def create_upload(
    uploads: Uploads, wait_reasons: WaitReasons, principal: Principal, request: pb.CreateUploadRequest
) -> pb.CreateUploadResponse:
    """Serve one CreateUpload call."""
    if not request.HasField("header"):
        raise InvalidField("header", "is missing; send it as in Upload.")
    header = upload_request(request.header, uploads.defaults, any_creator=principal.operator)
    view = await uploads.create(principal.name, header)
    return pb.CreateUploadResponse(upload=await _upload(uploads, wait_reasons, view))


async def get_upload(
    uploads: Uploads, wait_reasons: WaitReasons, principal: Principal, request: pb.GetUploadRequest
) -> pb.GetUploadResponse:
    """Serve one GetUpload call."""
    if not request.request_id:
        raise InvalidField("request_id", "is empty; give the one that the upload was begun with.")
    view = await uploads.get(principal.name, check_request_id("request_id", request.request_id))
    return pb.GetUploadResponse(upload=await _upload(uploads, wait_reasons, view))


async def submit_task(
    uploads: Uploads, wait_reasons: WaitReasons, principal: Principal, request: pb.SubmitTaskRequest
) -> pb.SubmitTaskResponse:
    """Serve one SubmitTask call. Operators may name anybody's payload."""
    tasks = await uploads.submit(
        principal.name, submit_request(request, uploads.defaults), any_creator=principal.operator
    )
    return pb.SubmitTaskResponse(
        tasks=await shown(uploads.store, wait_reasons, tasks, recent=True), task_ids=[task.id for task in tasks]
    )


async def submit_plan(
    uploads: Uploads, wait_reasons: WaitReasons, principal: Principal, request: pb.SubmitPlanRequest
) -> pb.SubmitPlanResponse:
    """Serve one SubmitPlan call. Operators may name anybody's payloads and tasks."""
    plan = plan_request(request, uploads.defaults)
    tasks = await uploads.submit_plan(principal.name, plan, any_creator=principal.operator)
    return pb.SubmitPlanResponse(
        tasks=await shown(uploads.store, wait_reasons, tasks, recent=True), task_ids=[task.id for task in tasks]
    )


async def _header(context: _Context, idle: float) -> pb.UploadHeader:
    try:
        async with asyncio.timeout(idle):
            message = await _read(context)
    except TimeoutError:
        raise UploadBroken(f"No header came in {idle:.0f} s.") from None
    if message is None:
        raise ProtocolViolation("The stream ended before a header.")
    which = "chunk" if isinstance(message, Chunk) else message.WhichOneof("message")
    if which != "header":
        raise ProtocolViolation(f"The first message is {which or 'empty'}; send the header first.")
    assert not isinstance(message, Chunk)
    return message.header


async def _small(
    uploads: Uploads, go_aheads: GoAheads, principal: Principal, request: UploadRequest, context: _Context
) -> Sequence[Task]:
    """Serve an Upload whose content is small. It needs no go-ahead unless the client waits for one."""
    async with await uploads.open_small(principal.name, request) as small:
        go_ahead = go_aheads.prepare(small, context)
        try:
            finish = await _receive(small, context, go_ahead)
        finally:
            await go_ahead.settle()
        return await small.finish(finish.size, finish.crc32c)


async def _receive(
    stream: UploadStream | SmallUpload, context: _Context, go_ahead: GoAhead | None = None
) -> pb.UploadFinish:
    """Chunks until the finish, and the end of the stream after it. The first message settles the go-ahead.

    A broken stream ends like a whole one: `read` answers EOF after an oversized frame, a client's deadline, cancel
    or death, and `cancelled()` is False. So the end proves nothing, and only a finish does.
    """
    while (message := await _read(context)) is not None:
        if go_ahead is not None:
            await go_ahead.heard()
            go_ahead = None
        if isinstance(message, Chunk):
            await stream.chunk(message.offset, message.crc32c, message.message, message.start)
            continue
        match message.WhichOneof("message"):
            case "chunk":
                chunk = message.chunk
                await stream.chunk(chunk.offset, chunk.crc32c, chunk.data)
            case "finish":
                if await _read(context) is not None:
                    raise ProtocolViolation("A message came after the finish, which must be the last.")
                return message.finish
            case "header":
                raise ProtocolViolation("A second header came; send one upload per stream.")
            case _:
                raise ProtocolViolation("An empty message came; send chunks and then a finish.")
    raise UploadBroken("The stream ended without a finish. What is durable is kept: continue from GetUpload's offset.")


async def _read(context: _Context) -> Request | None:
    message: Any = await context.read()
    return None if message is grpc.aio.EOF else message


async def _upload(uploads: Uploads, wait_reasons: WaitReasons, view: UploadView) -> pb.Upload:
    message = translate.upload(view.upload, active=view.active, expires_at=view.expires_at)
    if message.complete:
        message.ClearField("expire_time")
    message.tasks.extend(await shown(uploads.store, wait_reasons, view.upload.tasks, recent=True))
    message.task_ids.extend([task.id for task in view.upload.tasks])
    return message
