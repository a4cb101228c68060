"""A scripted WorkerService: keeps the contract's form, and says and does what a test tells it to.

It decides nothing by itself but this: it says welcome (holding everything that the hello holds), acknowledges
heartbeats and reports, and sends payloads. Each of these can be turned off or bent.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

import google_crc32c
import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from longshore.v1 import task_pb2, worker_service_pb2_grpc
from longshore.v1 import worker_service_pb2 as ws

WITHIN = 15.0
"""Seconds after which what a test waits for is not going to come."""

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
T = TypeVar("T")


class WorkerPeer:
    """One connection of a worker, as the server sees it. What the worker says is sorted into queues."""

    def __init__(self, hello: ws.WorkRequest, server: FakeServer) -> None:
        self.hello = hello.hello
        self.server = server
        self.ack_reports = server.ack_reports
        self.ack_heartbeats = server.ack_heartbeats
        self.began = time.monotonic()
        self.heartbeats: list[int] = []
        self.credits: list[int] = [hello.credits]
        self.progress: dict[str, tuple[int, int]] = {}
        self.goodbye = asyncio.Event()
        self.ended = asyncio.Event()
        self._reports: asyncio.Queue[ws.Report] = asyncio.Queue()
        self._grants: asyncio.Queue[ws.GrantRequest] = asyncio.Queue()
        self._begins: asyncio.Queue[ws.AttemptRef] = asyncio.Queue()
        self._ready: asyncio.Queue[ws.InstanceReady] = asyncio.Queue()
        self._debts: asyncio.Queue[ws.DebtReport] = asyncio.Queue()
        self._changed = asyncio.Condition()
        self._out: asyncio.Queue[ws.WorkResponse | grpc.StatusCode | None] = asyncio.Queue()

    # -- what the server says ----------------------------------------------------------------------------------------

    def say(self, **fields: Any) -> None:
        """Send a message with these fields."""
        self._out.put_nowait(ws.WorkResponse(**fields))

    def assign(self, task: task_pb2.Task, attempt: int = 1, **more: Any) -> ws.AttemptRef:
        """Send an assignment; returns the attempt's name."""
        self.say(assignments=[ws.Assignment(task=task, attempt=attempt, **more)])
        return ws.AttemptRef(task_id=task.id, attempt=attempt)

    def grant(self, ref: ws.AttemptRef, *, granted: bool = True, reason: str = "") -> None:
        self.say(grants=[ws.Grant(attempt=ref, granted=granted, reason=reason)])

    def begun(self, ref: ws.AttemptRef, *, begun: bool = True, reason: str = "") -> None:
        self.say(begun=[ws.Begun(attempt=ref, begun=begun, reason=reason)])

    def cancel(self, ref: ws.AttemptRef, *, grace: float = 30.0) -> None:
        self.say(cancels=[ws.Cancel(attempt=ref, grace=seconds(grace))])

    def revoke(self, ref: ws.AttemptRef, reason: str = "LEASE_LOST") -> None:
        self.say(revocations=[ws.Revocation(attempt=ref, reason=reason)])

    def ack(self, ref: ws.AttemptRef, *, accepted: bool = True) -> None:
        self.say(acks=[ws.ReportAck(attempt=ref, accepted=accepted)])

    def end(self, status: grpc.StatusCode | None = None) -> None:
        """End the stream, with a status or well."""
        self._out.put_nowait(status)

    # -- what the worker says ----------------------------------------------------------------------------------------

    async def report(self) -> ws.Report:
        return await soon(self._reports.get())

    async def grant_request(self) -> ws.GrantRequest:
        return await soon(self._grants.get())

    async def begin(self) -> ws.AttemptRef:
        return await soon(self._begins.get())

    @property
    def nothing_begins(self) -> bool:
        return self._begins.empty()

    async def ready(self) -> ws.InstanceReady:
        return await soon(self._ready.get())

    async def debt(self) -> ws.DebtReport:
        return await soon(self._debts.get())

    async def until(self, holds: Any) -> None:
        """Wait until `holds()` after some message of the worker's."""

        async def wait() -> None:
            async with self._changed:
                await self._changed.wait_for(holds)

        await soon(wait())

    @property
    def nothing_reported(self) -> bool:
        return self._reports.empty()

    # -- the stream --------------------------------------------------------------------------------------------------

    async def read(self, requests: AsyncIterator[ws.WorkRequest]) -> None:
        async for request in requests:
            await self._take(request)
        self._out.put_nowait(None)

    async def write(self) -> AsyncIterator[ws.WorkResponse]:
        while isinstance(message := await self._out.get(), ws.WorkResponse):
            yield message
        if message is not None:
            raise _End(message)

    async def _take(self, request: ws.WorkRequest) -> None:
        if request.HasField("credits"):
            self.credits.append(request.credits)
        if request.HasField("heartbeat"):
            self.heartbeats.append(request.heartbeat.sequence)
            if self.ack_heartbeats:
                self.say(heartbeat_ack=request.heartbeat.sequence)
        for progress in request.progress:
            self.progress[progress.attempt.task_id] = (progress.done, progress.total)
        for report in request.reports:
            self._reports.put_nowait(report)
            if self.ack_reports:
                self.ack(report.attempt)
        for grant in request.grant_requests:
            self._grants.put_nowait(grant)
        for begin in request.begins:
            self._begins.put_nowait(begin.attempt)
        for ready in request.ready:
            self._ready.put_nowait(ready)
        for debt in request.debts:
            self._debts.put_nowait(debt)
        if request.HasField("goodbye"):
            self.goodbye.set()
        async with self._changed:
            self._changed.notify_all()


class _End(Exception):
    def __init__(self, status: grpc.StatusCode) -> None:
        super().__init__(status)
        self.status = status


class FakeServer(worker_service_pb2_grpc.WorkerServiceServicer):
    """Serves on a loopback port. `peer()` waits for the next connection."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self._credentials = credentials
        self.lease = 30.0
        self.ack_reports = True
        self.ack_heartbeats = True
        self.begins = False
        """The server wants to be told when attempts that run alone begin."""
        self.keeps: set[str] | None = None
        """The next welcome leaves the session only these tasks. None means all that the hello held."""
        self.refusals: deque[tuple[grpc.StatusCode, str]] = deque()
        """Answers to the next connections in place of a welcome: status and reason."""
        self.payloads: dict[str, bytes] = {}
        """This dict has payloads by task id."""
        self.elsewhere: dict[str, str] = {}
        """This dict has, by task id, the address of the server that has the payload. An empty address means a server
        that is not there."""
        self.cuts: deque[int] = deque()
        """The next downloads end after so many bytes with UNAVAILABLE."""
        self.hold_after: int | None = None
        """Downloads stop after so many bytes, and wait until they are cancelled."""
        self.downloads: list[ws.DownloadPayloadRequest] = []
        self.tokens: list[str] = []
        self.connections: list[WorkerPeer] = []
        self.port = 0
        self._peers: asyncio.Queue[WorkerPeer] = asyncio.Queue()
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen; after `stop` on the same port again."""
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server)
        if self._credentials is None:
            self.port = self._server.add_insecure_port(self.address)
        else:
            self.port = self._server.add_secure_port(self.address, self._credentials)
        await self._server.start()

    async def stop(self) -> None:
        """Cut every connection and close the port."""
        if self._server is not None:
            await self._server.stop(None)

    async def peer(self) -> WorkerPeer:
        """The next connection, after its welcome."""
        return await soon(self._peers.get())

    async def Work(self, request_iterator: AsyncIterator[ws.WorkRequest], context: _Context) -> AsyncIterator[Any]:
        self.tokens += _tokens(context)
        if self.refusals:
            await refuse(context, *self.refusals.popleft())
        peer = WorkerPeer(await anext(aiter(request_iterator)), self)
        self.connections.append(peer)
        held = [ref for ref in peer.hello.held if self.keeps is None or ref.task_id in self.keeps]
        lost = [ref for ref in peer.hello.held if ref not in held]
        welcome = ws.Welcome(epoch=len(self.connections), lease=seconds(self.lease), held=held, begins=self.begins)
        yield ws.WorkResponse(
            welcome=welcome, revocations=[ws.Revocation(attempt=ref, reason="LEASE_LOST") for ref in lost]
        )
        self._peers.put_nowait(peer)
        reader = asyncio.create_task(peer.read(request_iterator))
        try:
            async for message in peer.write():
                yield message
        except _End as end:
            await context.abort(end.status, "as the script says")
        finally:
            peer.ended.set()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def DownloadPayload(
        self, request: ws.DownloadPayloadRequest, context: _Context
    ) -> AsyncIterator[ws.DownloadPayloadResponse]:
        self.downloads.append(request)
        self.tokens += _tokens(context)
        away = self.elsewhere.get(request.attempt.task_id)
        if away is not None:
            if away:
                await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "PAYLOAD_ELSEWHERE", server=away)
            await refuse(context, grpc.StatusCode.UNAVAILABLE, "PAYLOAD_UNREACHABLE")
        data = self.payloads.get(request.attempt.task_id)
        if data is None:
            await refuse(context, grpc.StatusCode.PERMISSION_DENIED, "NOT_YOUR_ATTEMPT")
            return
        cut = request.offset + self.cuts.popleft() if self.cuts else None
        step = 256 * 1024
        for offset in range(request.offset, len(data), step):
            if cut is not None and offset >= cut:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut by the script")
            if self.hold_after is not None and offset >= self.hold_after:
                await asyncio.Event().wait()
            yield ws.DownloadPayloadResponse(offset=offset, data=data[offset : offset + step])


def _tokens(context: _Context) -> list[str]:
    return [str(value) for key, value in context.invocation_metadata() or () if key == "authorization"] or [""]


@asynccontextmanager
async def serving() -> AsyncIterator[FakeServer]:
    """A fake server, from its start to its stop."""
    server = FakeServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def soon(awaited: Awaitable[T]) -> T:
    """Wait with a deadline."""
    async with asyncio.timeout(WITHIN):
        return await awaited


async def heard(peer: WorkerPeer) -> None:
    """The worker has acted on everything that was said: it has answered what was said last."""
    ref = peer.assign(job("probe", "no-such-kind"))
    while True:
        report = await peer.report()
        if report.attempt == ref:
            assert report.error.reason == "UNKNOWN_KIND"
            peer.ack(ref)
            return
        peer._reports.put_nowait(report)
        await asyncio.sleep(0)


async def refuse(context: _Context, code: grpc.StatusCode, reason: str, **metadata: str) -> None:
    """End the call as the real server does, with an ErrorInfo."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="longshore", metadata=metadata))
    status = status_pb2.Status(code=code.value[0], message=f"refused: {reason}", details=[detail])
    await context.abort_with_status(rpc_status.to_status(status))


def seconds(value: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(value * 1e9))
    return duration


def job(
    task_id: str,
    kind: str,
    arguments: Message | None = None,
    *,
    run_timeout: float | None = None,
    stall_timeout: float | None = None,
    payload: bytes | None = None,
) -> task_pb2.Task:
    """A task of a kind of one's own."""
    task = task_pb2.Task(id=task_id, kind=kind, state=task_pb2.TASK_STATE_RUNNING, attempt=1)
    task.job.kind = kind
    if arguments is not None:
        task.job.arguments.Pack(arguments)
    _complete(task, run_timeout, stall_timeout, payload)
    return task


def push(task_id: str, instance: str, path: str, payload: bytes, **fields: Any) -> task_pb2.Task:
    """A task that pushes a file to the target `default`."""
    task = task_pb2.Task(id=task_id, kind="file_push", state=task_pb2.TASK_STATE_RUNNING, attempt=1)
    task.file_push.CopyFrom(
        task_pb2.FilePush(destination=task_pb2.Destination(target="default", instance=instance, path=path), **fields)
    )
    _complete(task, None, None, payload)
    return task


def _complete(
    task: task_pb2.Task, run_timeout: float | None, stall_timeout: float | None, payload: bytes | None
) -> None:
    if run_timeout is not None:
        task.run_timeout.CopyFrom(seconds(run_timeout))
    if stall_timeout is not None:
        task.stall_timeout.CopyFrom(seconds(stall_timeout))
    if payload is not None:
        task.payload.id = f"payload-of-{task.id}"
        task.payload.size = len(payload)
        task.payload.crc32c = google_crc32c.value(payload)


def names(refs: Sequence[ws.AttemptRef]) -> set[tuple[str, int]]:
    """Attempts as pairs that compare."""
    return {(ref.task_id, ref.attempt) for ref in refs}


def environment(**more: str) -> Mapping[str, str]:
    """Settings of a worker in a process of its own, without any of this user's."""
    return {"PATH": "/usr/bin:/bin", "LONGSHORE_TOKEN": "t" * 20, "PYTHONUNBUFFERED": "1", **more}
