"""This module runs handlers: plain functions in threads, `async def` ones in an event loop of their own.

Neither runs in the agent's loop. So heartbeats go on whatever a handler does, even if it blocks where it must not.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

import structlog

from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.attempts import outcomes
from longshore.worker.attempts.attempt import Attempt
from longshore.worker.attempts.context import AsyncContext, AttemptResources, Context
from longshore.worker.attempts.handlers import Handler, is_async
from longshore.worker.attempts.mailbox import Mailbox
from longshore.worker.errors import AttemptError, AttemptStopped

_log: Final = structlog.stdlib.get_logger("longshore.worker")

Ended = Callable[[Attempt, ws.Report], None]
"""Called from whatever thread the handler ran in."""


class HandlerLoop:
    """An event loop in a thread, for `async def` handlers."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._mailbox = Mailbox(self._loop)
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="longshore-handlers", daemon=True)
        self._thread.start()

    def start(self, attempt: Attempt, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a coroutine, which must not raise, for an attempt; it is cancelled when the attempt is told to end."""
        self._mailbox.post(partial(self._start, attempt, work))

    def close(self) -> None:
        """End the loop once its tasks are done; a task that never ends keeps the thread, which is a daemon."""
        self._mailbox.post(self._maybe_stop)
        self._thread.join(timeout=1.0)
        if not self._thread.is_alive():
            self._loop.close()

    def _start(self, attempt: Attempt, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self._loop.create_task(work())
        self._tasks.add(task)
        forget = attempt.on_stop(lambda: self._mailbox.post(partial(self._cancel, task)))
        task.add_done_callback(lambda done: self._done(done, forget))

    @staticmethod
    def _cancel(task: asyncio.Task[None]) -> None:
        # Posted from `_start` or later, so the task's first step comes before this: a coroutine cancelled before it has
        # begun runs none of its code, and nobody would hear of its end.
        task.cancel()

    def _done(self, task: asyncio.Task[None], forget: Callable[[], None]) -> None:
        forget()
        self._tasks.discard(task)

    def _maybe_stop(self) -> None:
        if self._tasks:
            self._loop.call_later(0.05, self._maybe_stop)
        else:
            self._loop.stop()


class Runner:
    """Starts handlers and tells how they ended."""

    def __init__(self, resources: AttemptResources, ended: Ended) -> None:
        self._resources = resources
        self._ended = ended
        self._threads = resources.threads
        self._async: HandlerLoop | None = None

    def start(self, attempt: Attempt, handler: Handler) -> None:
        """Run the handler, or its `settle`; `ended` is called exactly once, from another thread."""
        if attempt.assignment.HasField("settle"):
            if handler.settle is None:
                raise ValueError(f"{handler.kind} does not settle")
            call: Callable[..., Any] = handler.settle
            arguments: tuple[Any, ...] = (attempt.assignment.settle,)
        else:
            call, arguments = handler.run, ()
        if is_async(call):
            if self._async is None:
                self._async = HandlerLoop()
            self._async.start(attempt, partial(self._run_async, attempt, call, arguments))
        else:
            self._threads.run(partial(self._run, attempt, call, arguments))

    def close(self) -> None:
        """End the handlers' loop. The threads belong to `resources`, and stay."""
        if self._async is not None:
            self._async.close()

    def _run(self, attempt: Attempt, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        context = Context(attempt, self._resources)
        try:
            attempt.check()
            report = outcomes.succeeded(attempt, call(context, *arguments))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the server is told; a thread has no other caller
            report = _report(attempt, error)
        self._close(attempt, context, report)

    async def _run_async(self, attempt: Attempt, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        context = AsyncContext(attempt, self._resources)
        try:
            attempt.check()
            report = outcomes.succeeded(attempt, await call(context, *arguments))
        except BaseException as error:  # noqa: BLE001 - as above; a cancellation is how a stop arrives
            report = _report(attempt, error)
        if context.holds_something:
            self._threads.run(partial(self._close, attempt, context, report))
        else:
            self._ended(attempt, report)

    def _close(self, attempt: Attempt, context: Context | AsyncContext, report: ws.Report) -> None:
        """Give back what the attempt used, which may block, and tell its end, come what may."""
        try:
            context.close()
        except Exception as error:  # noqa: BLE001 - the handler has ended; its outcome must not hang on a temp file
            _log.warning("attempt_cleanup_failed", task_id=attempt.key[0], attempt=attempt.number, exc_info=error)
        self._ended(attempt, report)


def _report(attempt: Attempt, error: BaseException) -> ws.Report:
    expected = (AttemptError, AttemptStopped, asyncio.CancelledError)
    if not isinstance(error, expected):
        # Only here: over the wire go type and message, which hold no local variables and no paths of this machine.
        _log.error(
            "handler_raised", task_id=attempt.key[0], attempt=attempt.number, kind=attempt.task.kind, exc_info=error
        )
    return outcomes.raised(attempt, error)
