"""A task service in this process, on a loopback port, over a real database and spool; and a client of bare stubs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import google_crc32c
import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from longshore.client.servers.ending import CallEnding
from longshore.server.edge.auth.interceptor import AuthInterceptor
from longshore.server.edge.task_service import TaskEngine, TaskService, add_task_service
from longshore.server.engine.sessions.fleet import Fleet
from longshore.server.engine.sessions.progress import ProgressBoard
from longshore.server.engine.submissions import Defaults
from longshore.server.engine.uploads.uploads import UploadLimits, Uploads
from longshore.server.engine.wait_reasons import WaitReasons
from longshore.server.engine.watch import WatchHub
from longshore.server.model.access import LocalToken
from longshore.server.model.clock import SystemClock
from longshore.server.model.events import Policy
from longshore.server.model.servers import Here
from longshore.server.model.task import Task
from longshore.server.spool.directory.spool import DirectorySpool
from longshore.server.spool.protocol import Spool
from longshore.server.store.protocol import Store, TaskFilter
from longshore.server.store.sqlite.dialect import SQLiteStore
from longshore.server.store.transaction.limits import ConcurrencyLimits
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import task_service_pb2_grpc as pb_grpc
from tests.support.waiting import until

TOKEN = "the-token"
METADATA = (("authorization", f"Bearer {TOKEN}"),)
MIB = 1 << 20
LARGEST_MESSAGE = 4 * MIB


class TaskServer:
    """`async with TaskServer(root)`: what longshored serves to submitters, without its dispatcher and janitor.

    `store_of` and `spool_of` may wrap the real store and spool, to let one call fail. Entering again after leaving is a
    restart on the same data.
    """

    def __init__(
        self,
        root: Path,
        *,
        limits: UploadLimits | None = None,
        spool_root: Path | None = None,
        reserve: int = 0,
        store_of: Callable[[Store], Store] = lambda store: store,
        spool_of: Callable[[Spool], Spool] = lambda spool: spool,
        here: Here | None = None,
    ) -> None:
        self._root = root
        self._spool_root = spool_root or root / "spool"
        self._reserve = reserve
        self._store_of = store_of
        self._spool_of = spool_of
        self._here = here
        self.limits = limits or UploadLimits(inline_bytes=0, patience=0.2, detach=10.0)
        self.store: Store
        self.uploads: Uploads
        self._stack = contextlib.AsyncExitStack()
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        self._root.mkdir(parents=True, exist_ok=True)
        clock = SystemClock()
        real = SQLiteStore(path=self._root / "db.sqlite", clock=clock, policy=Policy(), limits=ConcurrencyLimits())
        await real.open()
        self._stack.push_async_callback(real.close)
        spool = DirectorySpool(root=self._spool_root, reserve=self._reserve)
        await spool.open()
        self._stack.push_async_callback(spool.close)
        self.store = self._store_of(real)
        self.uploads = Uploads(
            store=self.store,
            spool=self._spool_of(spool),
            clock=clock,
            limits=self.limits,
            defaults=Defaults(),
            here=self._here,
        )
        engine = TaskEngine(
            store=self.store,
            uploads=self.uploads,
            wait_reasons=WaitReasons(store=self.store, fleet=Fleet(), clock=clock, instance_limit=4, target_limit=64),
            watches=WatchHub(store=self.store, progress=ProgressBoard()),
            bounds=self.limits.bounds,
            defaults=Defaults(),
        )
        self._server = grpc.aio.server(
            interceptors=[AuthInterceptor(local=LocalToken(TOKEN))],
            options=[("grpc.max_receive_message_length", LARGEST_MESSAGE), ("grpc.so_reuseport", 0)],
        )
        add_task_service(TaskService(engine), self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self._server.start()
        channel = self._channel = grpc.aio.insecure_channel(self.address, options=[("grpc.enable_retries", 0)])
        self._stack.push_async_callback(channel.close)
        self.stub = pb_grpc.TaskServiceStub(channel)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop(drain=0.0)

    async def stop(self, *, drain: float) -> None:
        """Leave; uploads get `drain` seconds."""
        if self._server is not None:
            await self.uploads.drain(drain)
            await self.uploads.close()
            await self._server.stop(grace=0.5)
            self._server = None
            await self._stack.aclose()

    async def idle(self) -> None:
        """Wait until no connection is sending, and none is being closed."""
        await until(lambda: self.uploads.statistics().connections + self.uploads.statistics().closing == 0)

    async def tasks(self) -> list[Task]:
        return list(await self.store.list_tasks(TaskFilter(), before=None, limit=1000))

    @property
    def sealed(self) -> list[Path]:
        """Payloads under their final names."""
        return [path for path in (self._spool_root / "payloads").rglob("*") if path.is_file()]

    @property
    def parts(self) -> list[Path]:
        return list((self._spool_root / "uploads").iterdir())

    def upload(self, messages: AsyncIterator[pb.UploadRequest] | Iterable[pb.UploadRequest], **options: Any) -> Any:
        """The call. It remembers how the server ended it: see `told`."""
        flow = messages if isinstance(messages, AsyncIterator) else iter(messages)
        call: Any = self.stub.Upload(flow, metadata=METADATA, **options)
        call.ending = CallEnding(call)
        return call

    def raw_upload(self, messages: Iterator[bytes]) -> Any:
        """An Upload whose messages are serialized already."""
        upload: Any = self._channel.stream_unary(
            "/longshore.v1.TaskService/Upload",
            request_serializer=None,
            response_deserializer=pb.UploadResponse.FromString,
        )
        return upload(messages, metadata=METADATA)

    async def create(self, header: pb.UploadHeader) -> pb.Upload:
        answer = await self.stub.CreateUpload(pb.CreateUploadRequest(header=header), metadata=METADATA)
        return answer.upload

    async def get(self, request_id: str) -> pb.Upload:
        answer = await self.stub.GetUpload(pb.GetUploadRequest(request_id=request_id), metadata=METADATA)
        return answer.upload

    async def submit(self, request: pb.SubmitTaskRequest) -> pb.SubmitTaskResponse:
        return await self.stub.SubmitTask(request, metadata=METADATA)


# Messages -----------------------------------------------------------------------------------------------------------


def crc(data: bytes) -> int:
    return int(google_crc32c.value(data))


def push_spec(*instances: str, path: str = "/srv/file", **fields: Any) -> task_pb2.TaskSpec:
    pushes = [
        task_pb2.FilePush(destination=task_pb2.Destination(instance=name, path=path)) for name in instances or ("c1",)
    ]
    return task_pb2.TaskSpec(file_push=task_pb2.FilePushSpec(pushes=pushes), **fields)


def header_of(request_id: str = "r1", *, spec: task_pb2.TaskSpec | None = None, **fields: Any) -> pb.UploadHeader:
    return pb.UploadHeader(request_id=request_id, spec=spec or push_spec(), **fields)


def opening(header: pb.UploadHeader) -> pb.UploadRequest:
    return pb.UploadRequest(header=header)


def chunk(offset: int, data: bytes, *, wrong: int = 0) -> pb.UploadRequest:
    return pb.UploadRequest(chunk=pb.UploadChunk(offset=offset, crc32c=crc(data) ^ wrong, data=data))


def chunks(content: bytes, *, start: int = 0, size: int = MIB) -> Iterator[pb.UploadRequest]:
    for offset in range(start, len(content), size):
        yield chunk(offset, content[offset : offset + size])


def finish(content: bytes, *, size: int | None = None, wrong: int = 0) -> pb.UploadRequest:
    return pb.UploadRequest(
        finish=pb.UploadFinish(size=len(content) if size is None else size, crc32c=crc(content) ^ wrong)
    )


def whole(header: pb.UploadHeader, content: bytes) -> Iterator[pb.UploadRequest]:
    """Everything, from byte 0: what the simplest client sends."""
    yield opening(header)
    yield from chunks(content)
    yield finish(content)


class UploadCall:
    """An upload sent by hand, message by message, over a call that was begun."""

    def __init__(
        self, call: grpc.aio.StreamUnaryCall[pb.UploadRequest, pb.UploadResponse], header: pb.UploadHeader
    ) -> None:
        self.call = call
        self.header = header

    async def begin(self) -> int:
        """Send the header; answers the offset that the server asks for. Raises grpc.aio.AioRpcError when it refuses."""
        await self.call.write(opening(self.header))
        metadata = dict(await self.call.initial_metadata())
        if "longshore-offset" not in metadata:
            await self.call  # raises the refusal
        return int(str(metadata["longshore-offset"]))

    async def send(self, *messages: pb.UploadRequest) -> None:
        for message in messages:
            await self.call.write(message)

    async def end(self) -> pb.UploadResponse:
        await self.call.done_writing()
        return await self.call


class Sender(UploadCall):
    """An upload to a server of this process."""

    def __init__(self, server: TaskServer, header: pb.UploadHeader, **options: Any) -> None:
        super().__init__(server.stub.Upload(metadata=METADATA, **options), header)


# Refusals -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refusal:
    """An error as a client sees it."""

    code: grpc.StatusCode
    reason: str
    message: str
    details: tuple[Message, ...]

    def has(self, kind: type[Message]) -> bool:
        return any(isinstance(one, kind) for one in self.details)


_DETAILS = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.QuotaFailure,
    error_details_pb2.RetryInfo,
)


def refusal_of(error: grpc.RpcError) -> Refusal:
    """Read the google.rpc details."""
    assert isinstance(error, grpc.aio.AioRpcError)
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None, f"no details with {error.code()}: {error.details()}"
    found: list[Message] = []
    for packed in status.details:
        for kind in _DETAILS:
            if packed.Is(kind.DESCRIPTOR):
                detail = kind()
                packed.Unpack(detail)
                found.append(detail)
    (info,) = [one for one in found if isinstance(one, error_details_pb2.ErrorInfo)]
    assert info.domain == "longshore"
    return Refusal(error.code(), info.reason, status.message, tuple(found))


async def refused(call: Any) -> Refusal:
    """The refusal that the call, or a coroutine around it, must end with."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return refusal_of(await told(call, error))
    raise AssertionError(f"not refused: {answer}")


async def told(call: Any, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
    """The status with which the server ended the call. A write that fails after that puts another in its place."""
    ending: CallEnding | None = getattr(call, "ending", None)
    return error if ending is None else await ending.told(error)
