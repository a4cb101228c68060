"""SubmitTasks: a great many submissions over one stream, each of which stands by itself."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Any, Final, TypeAlias

import grpc.aio

from longshore.server.edge.auth.principal import Principal, ended_by
from longshore.server.edge.messages.validate import submit_request
from longshore.server.edge.status import status_of, tellable
from longshore.server.engine.uploads.uploads import Uploads
from longshore.server.model.errors import Draining, LongshoreError
from longshore.server.model.task import Task
from longshore.v1 import task_service_pb2 as pb

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

WAITING: Final = 1000
"""Submissions of one stream that may wait for their answer."""
WAITING_BYTES: Final = 8 << 20
"""About what they may hold, so that one stream does not fill the store's queue of commands (64 MiB), which then refuses
others."""
ANSWERED: Final = 2000
"""Answers that may wait for a caller who does not read; then nothing more is taken from it either."""
ANSWERED_BYTES: Final = 4 << 20
"""The same in bytes: where something was refused an answer has a few KiB, with a thousand destinations 28."""
ANSWERS_AT_ONCE: Final = 1000
"""Answers in one message."""
ANSWER_BYTES_AT_ONCE: Final = 1 << 20
"""The same in bytes, but for the last one. Callers take messages of 4 MiB."""
_TASK_BYTES: Final = 1024
"""About what a task takes while it waits for the store, beside its arguments."""


async def serve_submissions(uploads: Uploads, principal: Principal, context: _Context) -> None:
    """Serve one SubmitTasks call. Raises Draining when the server leaves, after the last answer."""
    stream = _Submissions(uploads, principal)
    reader = asyncio.create_task(stream.read(context), name="submissions: read")
    try:
        with ended_by(stream.end):
            await stream.write(context)
    finally:
        # The reader is awaited. What it has begun is committed, and its caller can ask again by the request's id.
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
    if stream.error is not None:
        raise stream.error
    if not reader.cancelled():
        reader.result()


class _Submissions:
    """Keeps the submissions that wait for the store and the answers that wait for the caller. Everything is called on
    the loop."""

    def __init__(self, uploads: Uploads, principal: Principal) -> None:
        self._uploads = uploads
        self._principal = principal
        self._waiting = self._waiting_bytes = 0
        self._answers_bytes = 0
        self._answers: deque[tuple[pb.SubmissionAnswer, int]] = deque()
        """The answers with their bytes."""
        self._bell = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._ended = False
        self.error: LongshoreError | None = None

    def end(self, error: LongshoreError) -> None:
        """Take nothing more; the stream ends with `error` after the answers to what was taken."""
        self.error = self.error or error
        self._bell.set()

    async def read(self, context: _Context) -> None:
        """Take submissions, no faster than they are answered and the answers read, until the caller's end."""
        try:
            while self.error is None:
                await self._room.wait()
                message = await context.read()
                if message is grpc.aio.EOF:
                    return
                for one in message.submissions:
                    # Each one waits: a message holds two million empty ones, all of them with a refusal to be made.
                    await self._room.wait()
                    self._take(one)
        finally:
            self._ended = True
            self._bell.set()

    async def write(self, context: _Context) -> None:
        """Answer until nothing more can come."""
        leaving = self._uploads.leaving
        told = asyncio.create_task(leaving.wait(), name="submissions: leaving")
        told.add_done_callback(lambda done: None if done.cancelled() else self.end(_draining()))
        try:
            while True:
                await self._bell.wait()
                self._bell.clear()
                # All that one commit answered is here: the other answers stood in the loop's line before this task.
                while self._answers:
                    await context.write(pb.SubmitTasksResponse(answers=self._some_answers()))
                    self._look_at_room()
                if not self._waiting and (self._ended or self.error is not None):
                    break
            if isinstance(self.error, Draining):
                await context.write(pb.SubmitTasksResponse(go_away=pb.GoAway(reason=self.error.reason)))
        finally:
            told.cancel()

    def _some_answers(self) -> list[pb.SubmissionAnswer]:
        some: list[pb.SubmissionAnswer] = []
        size = 0
        while self._answers and len(some) < ANSWERS_AT_ONCE and size < ANSWER_BYTES_AT_ONCE:
            answer, more = self._answers.popleft()
            some.append(answer)
            size += more
        self._answers_bytes -= size
        return some

    def _take(self, one: pb.Submission) -> None:
        number = one.number
        try:
            if self.error is not None:
                raise self.error
            request = submit_request(one.request, self._uploads.defaults)
            begun = self._uploads.begin_submit(self._principal.name, request, any_creator=self._principal.operator)
        except LongshoreError as error:
            self._answer(_refusal(number, error))
        else:
            size = one.ByteSize() + _TASK_BYTES * len(request.task.works)
            self._waiting += 1
            self._waiting_bytes += size
            self._look_at_room()
            begun.add_done_callback(partial(self._done, number, size))

    def _done(self, number: int, size: int, begun: asyncio.Future[tuple[Task, ...]]) -> None:
        self._waiting -= 1
        self._waiting_bytes -= size
        error = begun.exception()
        if error is None:
            # Field by field: keywords take twice as long, and each submission has an answer.
            answer = pb.SubmissionAnswer()
            answer.number = number
            answer.task_ids.extend([task.submission.id for task in begun.result()])
            self._answer(answer)
        else:
            self._answer(_refusal(number, tellable(error)))

    def _answer(self, answer: pb.SubmissionAnswer) -> None:
        size = answer.ByteSize()
        self._answers.append((answer, size))
        self._answers_bytes += size
        self._bell.set()
        self._look_at_room()

    def _look_at_room(self) -> None:
        waits = self._waiting < WAITING and self._waiting_bytes < WAITING_BYTES
        if waits and len(self._answers) < ANSWERED and self._answers_bytes < ANSWERED_BYTES:
            self._room.set()
        else:
            self._room.clear()


def _refusal(number: int, error: LongshoreError) -> pb.SubmissionAnswer:
    return pb.SubmissionAnswer(number=number, reason=error.reason, status=status_of(error).SerializeToString())


def _draining() -> Draining:
    return Draining("This server is leaving and takes nothing new. Connect again, here or elsewhere.")
