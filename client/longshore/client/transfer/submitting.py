"""This module submits a great many tasks over one stream, and over as many connections as it takes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import google_crc32c
import grpc
from google.rpc import status_pb2

from longshore.client.errors import ConfigurationError, LongshoreError, Unavailable, from_status
from longshore.client.servers.connection import Connection
from longshore.client.servers.ending import CallEnding
from longshore.client.servers.patience import OnWait, Patience, may_pass
from longshore.client.servers.servers import Tour
from longshore.client.values import arguments
from longshore.contract.request_ids import new_request_id
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb

_STARTED: Final[set[asyncio.Task[None]]] = set()
"""This set holds the asyncio tasks of all runs, not of one: a run that is left without an end would be collected
together with its tasks, if nothing else held them."""

_Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.SubmitTasksRequest, pb.SubmitTasksResponse]"

AT_ONCE: Final = 1000
"""Submissions that wait for their answer, as many as a server takes of one stream."""
SILENCE: Final = 45.0
"""Seconds without an answer while some are due, until the connection is given up."""
_MESSAGE: Final = 64
"""Submissions in one message."""
_MESSAGE_BYTES: Final = 1 << 20
"""The same in bytes, but one goes whatever its size. Servers take messages of 4 MiB."""
_PULLED: Final = 100
"""Submissions taken from an iterable before others get a turn of the loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A submission has the arguments of `submit`. `content` is a small file, at most 64 KiB; an empty `request_id` is
    made up."""

    spec: task_pb2.TaskSpec
    payload_id: str = ""
    content: bytes | None = None
    request_id: str = ""

    def request(self) -> pb.SubmitTaskRequest:
        """Make the message of the contract, with the content's CRC32C. Raises ConfigurationError."""
        request = pb.SubmitTaskRequest(
            request_id=arguments.text("request_id", self.request_id),
            spec=self.spec,
            payload_id=arguments.text("payload_id", self.payload_id),
        )
        if self.content is not None:
            content: object = self.content
            if not isinstance(content, bytes | bytearray | memoryview):
                raise ConfigurationError(
                    f"content is a {type(content).__name__}: give bytes, or `upload` a file", reason="INVALID_ARGUMENT"
                )
            request.content = bytes(content)
            request.content_crc32c = google_crc32c.value(request.content)
        return request


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """The answer to a submission has tasks that are durable, or the error. `submission` has its request id."""

    submission: Submission
    task_ids: tuple[str, ...] = ()
    error: LongshoreError | None = None


class Submitting:
    """One run of AsyncClient.submit_many. What was not answered is submitted again, under the same request id."""

    def __init__(
        self,
        *,
        tour: Tour,
        submissions: Iterable[Submission] | AsyncIterable[Submission],
        patience: float,
        at_once: int,
        on_wait: OnWait | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tour: Final = tour
        self._source: Final = submissions
        self._patience: Final = Patience(limit=patience, route=tour, on_wait=on_wait, clock=clock)
        self._at_once: Final = at_once
        self._taken = 0
        self._waiting: dict[int, tuple[Submission, pb.Submission]] = {}
        """These submissions wait for their answer: by number, in the order in which they were taken. Each stands beside
        its message, which is the same however often it is sent."""
        self._unsent: deque[int] = deque()
        """These waiting submissions were not sent over this connection yet."""
        self._moved = asyncio.Event()
        self._room = asyncio.Event()
        self._exhausted = False
        self._interrupted: BaseException | None = None
        self._call: _Call | None = None
        self._ending: CallEnding | None = None
        self._connection: Connection | None = None
        self._feeder: asyncio.Task[None] | None = None
        self._refused: LongshoreError | None = None

    async def run(self) -> AsyncGenerator[Submitted, None]:
        """Yield each answer as it comes. Raises what the source raises, and LongshoreError when patience is over."""
        puller = _started(self._pull(), name="submit_many: pull")
        puller.add_done_callback(lambda _: self._moved.set())
        try:
            while (some := await self._patience.run(self._once)) is not None:
                for one in some:
                    yield one
                # Patience is for the server, and not for the time that the caller took.
                self._patience.moved()
                if puller.done():
                    puller.result()
            await puller
            if self._interrupted is not None:
                raise self._interrupted
        finally:
            puller.cancel()
            await asyncio.gather(puller, return_exceptions=True)
            await self._leave()

    # What there is to submit ---------------------------------------------------------------------------------------

    async def _pull(self) -> None:
        """Take submissions from the source while there is room. One asyncio task does so for the whole run: a cut must
        not cancel the source."""
        try:
            if isinstance(self._source, AsyncIterable):
                async for each in self._source:
                    await self._add(each)
            else:
                for number, each in enumerate(self._source):
                    await self._add(each)
                    if number % _PULLED == _PULLED - 1:
                        await asyncio.sleep(0)
        except (KeyboardInterrupt, SystemExit) as error:
            # asyncio lets them out of this task through its loop, and a caller of `run` would wait for ever.
            self._interrupted = error
        finally:
            self._exhausted = True
        self._moved.set()

    async def _add(self, one: Submission) -> None:
        while len(self._waiting) >= self._at_once:
            self._room.clear()
            await self._room.wait()
        given: object = one
        if not isinstance(given, Submission):
            raise ConfigurationError(
                f"the submissions gave a {type(given).__name__}: give each as Submission(spec=…), and end the iterator "
                "where they end",
                reason="INVALID_ARGUMENT",
            )
        one = one if one.request_id else replace(one, request_id=new_request_id())
        # Now: what cannot be sent is raised where it came from, and a spec may be changed for the next submission.
        request = one.request()
        if not self._waiting:
            self._patience.moved()  # until now no server owed anything
        self._taken += 1
        number = self._taken
        self._waiting[number] = one, pb.Submission(number=number, request=request)
        self._unsent.append(number)
        self._moved.set()

    # One connection ------------------------------------------------------------------------------------------------

    async def _once(self) -> Sequence[Submitted] | None:
        """Return the next answers. None means that there will be none."""
        refused, self._refused = self._refused, None
        if refused is not None:
            await self._leave()
            raise refused
        if self._call is None or self._connection is None:
            await self._due()
            if not self._waiting:
                return None
            await self._begin()
        connection, call, ending = self._connection, self._call, self._ending
        assert connection is not None
        assert call is not None
        assert ending is not None
        try:
            with connection.used():
                return await self._read(call)
        except grpc.aio.AioRpcError as error:
            told = await ending.told(error)
            await self._leave()
            return self._cut(await connection.explained(told), error)
        except LongshoreError as error:
            await self._leave()
            return self._cut(error, error.__cause__)
        except asyncio.CancelledError:
            await self._leave()
            raise

    async def _due(self) -> None:
        """Wait until there is something to submit, or nothing any more."""
        while not self._waiting and not self._exhausted:
            self._moved.clear()
            await self._moved.wait()

    def _cut(self, error: LongshoreError, cause: BaseException | None) -> Sequence[Submitted]:
        """Raise the error that ended a connection if submissions wait. Else the error means nothing, and the next call
        connects anew."""
        if self._waiting:
            raise error from cause
        self._tour.failed(error)
        return ()

    async def _begin(self) -> None:
        connection = await self._tour.connection()
        self._unsent = deque(self._waiting)
        self._call = call = connection.tasks.SubmitTasks(metadata=connection.metadata)
        self._ending = CallEnding(call)
        connection.users += 1
        self._connection = connection
        self._feeder = _started(self._feed(call), name="submit_many: feed")

    async def _leave(self) -> None:
        feeder, self._feeder = self._feeder, None
        if feeder is not None:
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.users -= 1

    async def _feed(self, call: _Call) -> None:
        """Send the unsent submissions, as many as fit a message. The reading side tells the errors of this one."""
        try:
            while True:
                if some := self._message():
                    await call.write(pb.SubmitTasksRequest(submissions=some))
                elif self._exhausted:
                    await call.done_writing()
                    return
                else:
                    self._moved.clear()
                    await self._moved.wait()
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            return

    def _message(self) -> list[pb.Submission]:
        some: list[pb.Submission] = []
        size = 0
        while self._unsent and len(some) < _MESSAGE:
            one = self._waiting[self._unsent[0]][1]
            size += one.ByteSize()
            if some and size > _MESSAGE_BYTES:
                break
            some.append(one)
            self._unsent.popleft()
        return some

    async def _read(self, call: _Call) -> Sequence[Submitted] | None:
        while True:
            message = await self._heard(call)
            if message is grpc.aio.EOF:
                if self._waiting or not self._exhausted:
                    raise Unavailable("the server ended the stream before its answers", reason="CUT")
                return None
            assert isinstance(message, pb.SubmitTasksResponse)
            if some := [one for answer in message.answers if (one := self._answered(answer)) is not None]:
                self._patience.moved()
                self._room.set()
                return some
            if self._refused is not None:
                refused, self._refused = self._refused, None
                raise refused

    async def _heard(self, call: _Call) -> object:
        """Wait for a message: without limit while no answer is due, else for SILENCE."""
        reading = asyncio.ensure_future(call.read())
        # Should we be cancelled in the moment in which it fails, nobody asks what it came to.
        reading.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        try:
            while not reading.done():
                due = bool(self._waiting)
                await asyncio.wait((reading,), timeout=SILENCE)
                if not reading.done() and due and self._waiting:
                    raise Unavailable(f"the server has been silent for {SILENCE:.0f} s", reason="STALLED")
        finally:
            if not reading.done():
                reading.cancel()
        return reading.result()

    def _answered(self, answer: pb.SubmissionAnswer) -> Submitted | None:
        """Take one answer. None means that its submission goes out again, or that it was answered before."""
        waiting = self._waiting.get(answer.number)
        if waiting is None:
            return None
        error = None
        if answer.reason:
            error = from_status(status_pb2.Status.FromString(answer.status))
            if may_pass(error):
                self._refused = error
                return None
        del self._waiting[answer.number]
        return Submitted(submission=waiting[0], task_ids=tuple(answer.task_ids), error=error)


def _started(work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
    task = asyncio.create_task(work, name=name)
    _STARTED.add(task)
    task.add_done_callback(_STARTED.discard)
    return task
