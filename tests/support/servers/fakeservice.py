"""A scripted TaskService: keeps the contract's rules of uploads and watches, and breaks off where a test says so."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import google_crc32c
import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from longshore.v1 import task_pb2, task_service_pb2_grpc
from longshore.v1 import task_service_pb2 as pb

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """End the call at once with this status; `reason` empty: as a transport would, without ErrorInfo."""

    code: grpc.StatusCode
    reason: str = ""
    message: str = "refused by the script"
    retry_after: float | None = None
    field: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """End an upload after so many bytes, of which `durable` outlive it (None: all)."""

    after: int
    durable: int | None = None
    end: Refuse = field(default_factory=lambda: Refuse(code=grpc.StatusCode.UNAVAILABLE, reason="DRAINING"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lose:
    """Take the upload whole, make its tasks, and end the call with UNAVAILABLE in place of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Change what was stored of the upload before it is continued: the first byte is another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """End a watch after so many revisions: by a status, by GoAway, or as if it were over."""

    after: int
    how: str = "status"
    repeat: int = 0
    """Old revisions to send again at the start, which no server should and every client must bear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipe:
    """A pipe says which submissions of a stream are refused, and after how many answers the server leaves."""

    refuse: Mapping[str, Refuse] = field(default_factory=dict)
    after: int | None = None


@dataclass(slots=True)
class _Stored:
    data: bytearray = field(default_factory=bytearray)
    tasks: list[task_pb2.Task] = field(default_factory=list)
    complete: bool = False


Act = Refuse | Cut | Lose | Damage | None


class FakeService(task_service_pb2_grpc.TaskServiceServicer):
    """`uploads` and `watches` are the scripts: an entry for each call, None to serve it well; well after the last."""

    def __init__(self) -> None:
        self.uploads: deque[Act] = deque()
        self.watches: deque[Break | Refuse | None] = deque()
        self.calls: deque[Refuse | None] = deque()
        """The script of every other method."""
        self.streams: deque[Pipe] = deque()
        """The script of SubmitTasks."""
        self.submitted: list[str] = []
        """Request ids that came over those streams, repeated ones too."""
        self.pieces: list[int] = []
        """Each message brought so many submissions."""
        self.labels: list[dict[str, str]] = []
        """The list has the labels of each submission."""
        self.headers: list[pb.UploadHeader] = []
        self.chunks: list[int] = []
        """Offsets of the chunks that came."""
        self.stored: defaultdict[str, _Stored] = defaultdict(_Stored)
        self.history: dict[str, list[task_pb2.Task]] = {}
        """Each task's revisions, oldest first."""
        self.watched_after: list[int | None] = []
        self.requests: list[Message] = []
        self.metadata: list[dict[str, str | bytes]] = []

    def nothing_made(self) -> bool:
        """Tell whether no upload is complete."""
        return not any(upload.complete for upload in self.stored.values())

    async def Upload(self, request_iterator: AsyncIterator[pb.UploadRequest], context: _Context) -> pb.UploadResponse:
        self._note(context)
        act = self.uploads.popleft() if self.uploads else None
        header = (await anext(request_iterator)).header
        self.headers.append(header)
        stored = self.stored[header.request_id]
        if isinstance(act, Refuse):
            await _refuse(context, act)
        if isinstance(act, Damage):
            stored.data[0] ^= 0xFF
        await context.send_initial_metadata((("longshore-offset", str(len(stored.data))), ("longshore-upload-id", "u")))
        left = act.after if isinstance(act, Cut) else None
        before = len(stored.data)
        async for request in request_iterator:
            if request.WhichOneof("message") == "finish":
                break
            chunk = request.chunk
            self.chunks.append(chunk.offset)
            if chunk.offset != len(stored.data):
                await _refuse(context, Refuse(code=grpc.StatusCode.INVALID_ARGUMENT, reason="CHUNK_OUT_OF_ORDER"))
            if google_crc32c.value(chunk.data) != chunk.crc32c:
                await _refuse(context, Refuse(code=grpc.StatusCode.INVALID_ARGUMENT, reason="CRC_MISMATCH"))
            stored.data += chunk.data
            if left is not None and len(stored.data) - before >= left:
                assert isinstance(act, Cut)
                if act.durable is not None:
                    del stored.data[act.durable :]
                await _refuse(context, act.end)
        else:
            await _refuse(context, Refuse(code=grpc.StatusCode.UNAVAILABLE, reason="UPLOAD_BROKEN"))
        if (request.finish.size, request.finish.crc32c) != (len(stored.data), google_crc32c.value(bytes(stored.data))):
            await _refuse(context, Refuse(code=grpc.StatusCode.INVALID_ARGUMENT, reason="CRC_MISMATCH"))
        if not stored.complete:
            stored.complete = True
            stored.tasks = [
                task_pb2.Task(
                    id=f"{header.request_id}-{number}",
                    revision=1,
                    state=task_pb2.TASK_STATE_QUEUED,
                    kind="file_push",
                    request_id=header.request_id,
                    file_push=push,
                )
                for number, push in enumerate(header.spec.file_push.pushes)
            ]
            self.history.update((task.id, [task]) for task in stored.tasks)
        if isinstance(act, Lose):
            await _refuse(context, Refuse(code=grpc.StatusCode.UNAVAILABLE))
        return pb.UploadResponse(tasks=stored.tasks, payload=task_pb2.Payload(id="p", size=len(stored.data)))

    async def CreateUpload(self, request: pb.CreateUploadRequest, context: _Context) -> pb.CreateUploadResponse:
        await self._serve(request, context)
        return pb.CreateUploadResponse()

    async def GetUpload(self, request: pb.GetUploadRequest, context: _Context) -> pb.GetUploadResponse:
        await self._serve(request, context)
        if request.request_id not in self.stored:
            await _refuse(context, Refuse(code=grpc.StatusCode.NOT_FOUND, reason="NOT_FOUND"))
        stored = self.stored[request.request_id]
        upload = pb.Upload(
            id="u",
            request_id=request.request_id,
            offset=len(stored.data),
            crc32c=google_crc32c.value(bytes(stored.data)),
            complete=stored.complete,
            tasks=stored.tasks,
        )
        return pb.GetUploadResponse(upload=upload)

    async def SubmitTask(self, request: pb.SubmitTaskRequest, context: _Context) -> pb.SubmitTaskResponse:
        await self._serve(request, context)
        task = task_pb2.Task(id="job", revision=1, kind=request.spec.job.kind, state=task_pb2.TASK_STATE_QUEUED)
        return pb.SubmitTaskResponse(tasks=[task])

    async def SubmitTasks(
        self, request_iterator: AsyncIterator[pb.SubmitTasksRequest], context: _Context
    ) -> AsyncIterator[pb.SubmitTasksResponse]:
        self._note(context)
        act = self.streams.popleft() if self.streams else Pipe()
        answered = 0
        async for request in request_iterator:
            self.pieces.append(len(request.submissions))
            for one in request.submissions:
                asked = one.request.request_id
                self.labels.append(dict(one.request.spec.labels))
                self.submitted.append(asked)
                answer = pb.SubmissionAnswer(number=one.number, task_ids=[f"task-{asked}"])
                if refuse := act.refuse.get(asked):
                    status = _status_of(refuse).SerializeToString()
                    answer = pb.SubmissionAnswer(number=one.number, reason=refuse.reason, status=status)
                yield pb.SubmitTasksResponse(answers=[answer])
                answered += 1
                if answered == act.after:
                    yield pb.SubmitTasksResponse(go_away=pb.GoAway(reason="DRAINING"))
                    await _refuse(context, Refuse(code=grpc.StatusCode.UNAVAILABLE, reason="DRAINING"))

    async def GetTask(self, request: pb.GetTaskRequest, context: _Context) -> pb.GetTaskResponse:
        await self._serve(request, context)
        return pb.GetTaskResponse(task=(await self._revisions(request.task_id, context))[-1])

    async def ListTasks(self, request: pb.ListTasksRequest, context: _Context) -> pb.ListTasksResponse:
        await self._serve(request, context)
        newest = [revisions[-1] for revisions in reversed(self.history.values())]
        start = int(request.page_token or 0)
        stop = start + (request.page_size or 100)
        token = str(stop) if stop < len(newest) else ""
        return pb.ListTasksResponse(tasks=newest[start:stop], next_page_token=token)

    async def ListAttempts(self, request: pb.ListAttemptsRequest, context: _Context) -> pb.ListAttemptsResponse:
        await self._serve(request, context)
        return pb.ListAttemptsResponse(attempts=[task_pb2.Attempt(number=1), task_pb2.Attempt(number=2)])

    async def WatchTask(self, request: pb.WatchTaskRequest, context: _Context) -> AsyncIterator[pb.WatchTaskResponse]:
        self._note(context)
        act = self.watches.popleft() if self.watches else None
        after = request.after_revision if request.HasField("after_revision") else None
        self.watched_after.append(after)
        if isinstance(act, Refuse):
            await _refuse(context, act)
        revisions = await self._revisions(request.task_id, context)
        if after is not None and after > revisions[-1].revision:
            await _refuse(context, Refuse(code=grpc.StatusCode.OUT_OF_RANGE, reason="REVISION_AHEAD"))
        if act is not None and after is not None:
            for old in [task for task in revisions if task.revision <= after][len(revisions) - act.repeat :]:
                yield pb.WatchTaskResponse(task=old)
        sent = 0
        for task in revisions:
            if after is not None and task.revision <= after:
                continue
            if act is not None and sent == act.after:
                if act.how == "go_away":
                    yield pb.WatchTaskResponse(go_away=pb.GoAway(reason="DRAINING"))
                    await asyncio.Event().wait()
                elif act.how == "status":
                    await _refuse(context, Refuse(code=grpc.StatusCode.UNAVAILABLE, reason="DRAINING"))
                return
            yield pb.WatchTaskResponse(progress=task_pb2.Progress(attempt=1, done=task.revision, total=9))
            yield pb.WatchTaskResponse(keepalive=pb.Keepalive())
            yield pb.WatchTaskResponse(task=task)
            sent += 1

    async def CancelTask(self, request: pb.CancelTaskRequest, context: _Context) -> pb.CancelTaskResponse:
        await self._serve(request, context)
        return pb.CancelTaskResponse(task=task_pb2.Task(id=request.task_id, cancel_reason=request.reason))

    async def SubmitPlan(self, request: pb.SubmitPlanRequest, context: _Context) -> pb.SubmitPlanResponse:
        await self._serve(request, context)
        ids = [] if request.dry_run else [f"step-{number}" for number in range(len(request.steps))]
        return pb.SubmitPlanResponse(tasks=[task_pb2.Task(id=each) for each in ids], task_ids=ids)

    async def GetBatch(self, request: pb.GetBatchRequest, context: _Context) -> pb.GetBatchResponse:
        await self._serve(request, context)
        return pb.GetBatchResponse(batch=pb.Batch(request_id=request.request_id, creator=request.creator))

    async def CancelBatch(self, request: pb.CancelBatchRequest, context: _Context) -> pb.CancelBatchResponse:
        await self._serve(request, context)
        return pb.CancelBatchResponse(batch=pb.Batch(request_id=request.request_id, creator=request.creator))

    async def RetryTask(self, request: pb.RetryTaskRequest, context: _Context) -> pb.RetryTaskResponse:
        await self._serve(request, context)
        return pb.RetryTaskResponse(task=task_pb2.Task(id="again", retry_of=request.task_id))

    def _note(self, context: _Context) -> None:
        self.metadata.append(dict(context.invocation_metadata() or ()))

    async def _serve(self, request: Message, context: _Context) -> None:
        self._note(context)
        self.requests.append(request)
        act = self.calls.popleft() if self.calls else None
        if act is not None:
            await _refuse(context, act)

    async def _revisions(self, task_id: str, context: _Context) -> Sequence[task_pb2.Task]:
        if task_id not in self.history:
            await _refuse(context, Refuse(code=grpc.StatusCode.NOT_FOUND, reason="NOT_FOUND"))
        return self.history[task_id]


async def _refuse(context: _Context, act: Refuse) -> NoReturn:
    if not act.reason:
        await context.abort(act.code, act.message)
        raise AssertionError("abort returned")
    rich = rpc_status.to_status(_status_of(act))
    await context.abort(rich.code, rich.details, rich.trailing_metadata)
    raise AssertionError("abort returned")


def _status_of(act: Refuse) -> status_pb2.Status:
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=act.reason, domain="longshore", metadata={"a": "b"})]
    if act.retry_after is not None:
        retry = Duration()
        retry.FromMicroseconds(round(act.retry_after * 1e6))
        violation = error_details_pb2.QuotaFailure.Violation(subject="queue:default", description="full")
        details += [
            error_details_pb2.RetryInfo(retry_delay=retry),
            error_details_pb2.QuotaFailure(violations=[violation]),
        ]
    if act.field:
        wrong = error_details_pb2.BadRequest.FieldViolation(field=act.field, description="is wrong")
        details.append(error_details_pb2.BadRequest(field_violations=[wrong]))
    packed = []
    for detail in details:
        wrapped = AnyMessage()
        wrapped.Pack(detail)
        packed.append(wrapped)
    return status_pb2.Status(code=act.code.value[0], message=act.message, details=packed)


def stored(service: FakeService) -> bytes:
    """Return the content of the only upload, which must be complete."""
    [upload] = service.stored.values()
    assert upload.complete
    return bytes(upload.data)


class FakeTaskServer:
    """The service on a loopback port: `async with FakeServer() as server`, then `server.address`, `server.service`."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.service = FakeService()
        self.credentials = credentials
        """The server uses these credentials for TLS; they may be changed between a stop and a start."""
        self.port = 0
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> FakeTaskServer:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        task_service_pb2_grpc.add_TaskServiceServicer_to_server(self.service, self._server)
        address = f"127.0.0.1:{self.port}"
        if self.credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, self.credentials)
        await self._server.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._server is not None
        await self._server.stop(None)
