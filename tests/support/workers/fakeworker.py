"""A worker that speaks the protocol by hand: it says what a test makes it say, and remembers what it is told.

It answers nothing by itself, not even with heartbeats, so that a test decides what is lost, late, or said twice.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from longshore.client.servers.ending import CallEnding
from longshore.v1 import task_pb2
from longshore.v1 import worker_service_pb2 as pb
from longshore.v1 import worker_service_pb2_grpc as pb_grpc

DEADLINE: Final = 10.0
"""Seconds after which something that a test waits for has not come."""

T = TypeVar("T")

_numbers = itertools.count(1)


class SessionRefused(Exception):
    """The stream ended with a status."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__(f"{error.code().name}: {error.details()}")
        self.code = error.code()
        self.reason = reason_of(error)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in a status's ErrorInfo; empty where there is none."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # an AioRpcError has what it reads
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return ""


def ref(task_id: str, attempt: int) -> pb.AttemptRef:
    return pb.AttemptRef(task_id=task_id, attempt=attempt)


class Stream:
    """One connection of the session. Lists grow as the server speaks; `until` waits for them."""

    def __init__(self, call: grpc.aio.StreamStreamCall[pb.WorkRequest, pb.WorkResponse]) -> None:
        self.call = call
        self._ending = CallEnding(call)
        self.messages: list[pb.WorkResponse] = []
        self.welcome: pb.Welcome | None = None
        self.heartbeat_ack = 0
        self.assignments: list[pb.Assignment] = []
        self.begun: list[pb.Begun] = []
        self.grants: list[pb.Grant] = []
        self.cancels: list[pb.Cancel] = []
        self.revocations: list[pb.Revocation] = []
        self.acks: list[pb.ReportAck] = []
        self.parked: dict[str, list[pb.InstanceRef]] = {}
        self.debts: list[pb.Debt] = []
        self.drain: pb.Drain | None = None
        self.go_away: str | None = None
        self.ended = False
        self.error: SessionRefused | None = None
        self._news = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """Read what comes. Not called: a worker that never reads."""
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for message in self.call:
                self._take(message)
                async with self._news:
                    self._news.notify_all()
        except grpc.aio.AioRpcError as error:
            # A write that fails after the end puts another status in the place of the server's.
            self.error = SessionRefused(await self._ending.told(error))
        except asyncio.CancelledError:
            # A call that was cut here ends so; a cancelled reader does not come back to hear of it.
            if not self.call.cancelled():
                raise
        finally:
            self.ended = True
            async with self._news:
                self._news.notify_all()

    def _take(self, message: pb.WorkResponse) -> None:
        self.messages.append(message)
        if message.HasField("welcome"):
            assert self.welcome is None
            assert len(self.messages) == 1
            self.welcome = message.welcome
        self.heartbeat_ack = max(self.heartbeat_ack, message.heartbeat_ack)
        self.assignments.extend(message.assignments)
        self.begun.extend(message.begun)
        self.grants.extend(message.grants)
        self.cancels.extend(message.cancels)
        self.revocations.extend(message.revocations)
        self.acks.extend(message.acks)
        for parked in message.parked:
            self.parked[parked.target] = list(parked.instances)
        self.debts.extend(message.debts)
        if message.HasField("drain"):
            self.drain = message.drain
        if message.HasField("go_away"):
            self.go_away = message.go_away.reason

    async def until(self, look: Callable[[], T | None], *, within: float = DEADLINE) -> T:
        """The first truthy answer of `look`, asked after each message. Without one: Refused, or AssertionError."""
        try:
            async with asyncio.timeout(within), self._news:
                while not (found := look()):
                    if self.ended:
                        raise self.error or AssertionError("the stream ended before it came")
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"not within {within} s; last came {str(self.messages[-3:])[-1500:]}") from None
        return found

    async def until_ended(self, *, within: float = DEADLINE) -> SessionRefused | None:
        """Wait for the end of the stream, and return the refusal that ended it. None means a good end."""
        async with asyncio.timeout(within), self._news:
            while not self.ended:
                await self._news.wait()
        return self.error

    async def say(self, **fields: Any) -> None:
        """A WorkRequest with these fields."""
        await self.call.write(pb.WorkRequest(**fields))

    async def offer(self, credits: int) -> None:
        """Absolute, as the protocol has it."""
        await self.say(credits=credits)

    async def heartbeat(self, sequence: int) -> None:
        await self.say(heartbeat=pb.Heartbeat(sequence=sequence))

    async def report(
        self,
        assignment: pb.Assignment,
        outcome: pb.Outcome.ValueType = pb.OUTCOME_OK,
        *,
        reason: str = "",
        **fields: Any,
    ) -> pb.ReportAck:
        """Report an attempt's end, and wait for the answer."""
        attempt = ref(assignment.task.id, assignment.attempt)
        before = len(self.acks)
        if reason:
            fields["error"] = task_pb2.TaskError(reason=reason, message="as the test says")
        if "retry_after" in fields:
            fields["retry_after"] = Duration(nanos=round(fields["retry_after"] * 1e9))
        await self.say(reports=[pb.Report(attempt=attempt, outcome=outcome, **fields)])
        return await self.until(lambda: next((one for one in self.acks[before:] if one.attempt == attempt), None))

    async def begin(self, assignment: pb.Assignment) -> pb.Begun:
        """Say that an attempt begins, and wait for the answer."""
        attempt = ref(assignment.task.id, assignment.attempt)
        before = len(self.begun)
        await self.say(begins=[pb.Begin(attempt=attempt)])
        return await self.until(lambda: next((one for one in self.begun[before:] if one.attempt == attempt), None))

    async def ask_grant(self, assignment: pb.Assignment, *, temp: str = "", **fields: Any) -> pb.Grant:
        """Ask for the commit grant, and wait for the answer."""
        attempt = ref(assignment.task.id, assignment.attempt)
        before = len(self.grants)
        await self.say(grant_requests=[pb.GrantRequest(attempt=attempt, temp=temp, **fields)])
        return await self.until(lambda: next((one for one in self.grants[before:] if one.attempt == attempt), None))

    async def next_assignment(self, *, within: float = DEADLINE) -> pb.Assignment:
        """The first assignment that this was not asked for before."""
        await self.until(lambda: self.assignments, within=within)
        return self.assignments.pop(0)

    async def goodbye(self) -> SessionRefused | None:
        """Leave for good, and wait for the end of the stream."""
        await self.say(goodbye=pb.Goodbye())
        await self.call.done_writing()
        return await self.until_ended()

    async def cut(self) -> None:
        """Let the connection die, saying nothing."""
        self.call.cancel()
        if self._reader is not None:
            with suppress(asyncio.CancelledError):
                await self._reader


class FakeWorker:
    """A worker process: one session, any number of connections. `async with FakeWorker(address, token=token) as it`."""

    def __init__(
        self,
        address: str,
        *,
        token: str,
        name: str = "",
        session_id: str = "",
        targets: Mapping[str, str] | Iterable[str] = ("default",),
        kinds: Mapping[str, bool] | None = None,
    ) -> None:
        number = next(_numbers)
        self.address = address
        self.name = name or f"worker-{number}"
        self.session_id = session_id or f"session-of-a-test-{number:04}"
        self.targets = dict(targets) if isinstance(targets, Mapping) else dict.fromkeys(targets, "")
        self.kinds = dict(kinds) if kinds is not None else {"file_push": True, "job": False}
        self.streams: list[Stream] = []
        self.metadata = (("authorization", f"Bearer {token}"),)
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        # A channel of its own: two workers of one process would else share a connection, and break together.
        self._channel = grpc.aio.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)])
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for stream in self.streams:
            await stream.cut()
        if self._channel is not None:
            await self._channel.close()

    @property
    def stub(self) -> pb_grpc.WorkerServiceStub:
        assert self._channel is not None
        return pb_grpc.WorkerServiceStub(self._channel)

    def hello(self, *, held: Iterable[tuple[str, int]] = (), **fields: Any) -> pb.Hello:
        said: dict[str, Any] = {
            "protocol_version": 1,
            "session_id": self.session_id,
            "worker": self.name,
            "targets": [pb.ServedTarget(name=name, identity=identity) for name, identity in self.targets.items()],
            "kinds": [pb.ServedKind(name=name, settles=settles) for name, settles in self.kinds.items()],
            "held": [ref(*one) for one in held],
            "version": "test",
        }
        return pb.Hello(**{**said, **fields})

    async def open(self, first: pb.WorkRequest, *, listen: bool = True) -> Stream:
        """A connection that begins with any message at all."""
        stream = Stream(self.stub.Work(metadata=self.metadata))
        self.streams.append(stream)
        if listen:
            stream.listen()
        # A server that refuses at once may have ended the call before the message is out.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await stream.call.write(first)
        return stream

    async def connect(
        self, *, held: Iterable[tuple[str, int]] = (), credits: int | None = None, **fields: Any
    ) -> Stream:
        """Say hello, and wait for the welcome. Raises Refused."""
        stream = await self.open(pb.WorkRequest(hello=self.hello(held=held, **fields), credits=credits))
        await stream.until(lambda: stream.welcome)
        return stream

    async def download(self, task_id: str, attempt: int, *, offset: int = 0, session_id: str = "") -> bytes:
        """A payload's bytes. Raises Refused."""
        request = pb.DownloadPayloadRequest(
            session_id=session_id or self.session_id, attempt=ref(task_id, attempt), offset=offset
        )
        data = bytearray()
        try:
            async for piece in self.stub.DownloadPayload(request, metadata=self.metadata):
                assert piece.offset == offset + len(data)
                assert 0 < len(piece.data) <= 1 << 20
                data += piece.data
        except grpc.aio.AioRpcError as error:
            raise SessionRefused(error) from None
        return bytes(data)
