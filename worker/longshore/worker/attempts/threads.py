"""Daemon threads for calls that block."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

import structlog

T = TypeVar("T")

_log: Final = structlog.stdlib.get_logger("longshore.worker")


class Threads:
    """Daemon threads for plain functions: one is started when none is idle; idle ones end at `close`.

    concurrent.futures has no daemon threads any more: one handler that hangs would keep the process from exiting. The
    callers of `run` bound the number of threads, or `limit` does: further calls then wait for a thread.
    """

    def __init__(self, name: str, *, limit: int | None = None) -> None:
        self._name = name
        self._limit = limit
        self._lock = threading.Condition()
        self._calls: deque[Callable[[], None]] = deque()
        self._idle = 0
        self._started = 0
        self._closed = False

    def run(self, call: Callable[[], None]) -> None:
        """Have `call` run in a thread soon. What it raises is logged: nobody waits for it."""
        with self._lock:
            self._calls.append(call)
            if self._idle >= len(self._calls) or self._started == self._limit:
                self._lock.notify()
                return
            self._started += 1
            name = f"{self._name}-{self._started}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def call(self, function: Callable[[], T]) -> T:
        """Run `function` in a thread and wait for what it returns or raises.

        Cancellation: the function is not run if it has not begun; else it goes on, and its result is dropped.
        """
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - it is the caller's, wherever that waits
                future.set_exception(error)

        self.run(work)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the idle threads; busy ones end after their calls, those that wait included."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
                while not self._calls and not self._closed:
                    self._lock.wait()
                self._idle -= 1
                if not self._calls:
                    return
                call = self._calls.popleft()
            try:
                call()
            except Exception as error:  # noqa: BLE001 - a defect in one call must not take the thread from the others
                _log.error("thread_raised", thread=threading.current_thread().name, exc_info=error)
