"""An event loop on a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Final, Self, TypeVar

from longshore.client.runtime.forks import check_not_forked

_T = TypeVar("_T")

_STOP: Final = 10.0
"""Seconds for the thread to end once it is told to."""


class LoopThread:
    """Runs coroutines for other threads, any number at once. `close()` ends it; so does the end of the process.

    What is still under way when it is closed is cancelled, and its callers see that.
    """

    def __init__(self, *, name: str) -> None:
        check_not_forked()
        self._pid: Final = os.getpid()
        self._loop: Final = asyncio.new_event_loop()
        self._thread: Final = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine to its end, with its result or its error. Ctrl-C in the waiting thread cancels it first."""
        try:
            check_not_forked(self._pid)
        except BaseException:
            coroutine.close()
            raise
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("a blocking client cannot be used in its own callbacks; it would wait for itself")
        if not self._thread.is_alive():
            coroutine.close()
            raise RuntimeError("the client is closed")
        begun = _carried(coroutine)
        try:
            future = asyncio.run_coroutine_threadsafe(begun, self._loop)
        except BaseException:
            # An interrupt in just that moment: what was not begun is put away without a warning.
            with contextlib.suppress(ValueError):  # it has begun after all
                begun.close()
                coroutine.close()
            raise
        try:
            return future.result()
        except _Carried as carried:
            raise carried.error from None
        except BaseException:
            if not future.done():
                future.cancel()
                concurrent.futures.wait([future], timeout=_STOP)
            raise

    @property
    def running(self) -> bool:
        """Return whether the thread runs: it was not closed."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop the loop and wait for the thread. Idempotent; what still runs is cancelled."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_STOP)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()


class _Carried(Exception):
    """Brings what would end the loop's thread to the thread that waits."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error: Final = error


async def _carried(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Carry KeyboardInterrupt and SystemExit of a callback to the caller: asyncio lets them through its loop, and the
    caller would then wait for ever for a thread that is gone."""
    try:
        return await coroutine
    except (KeyboardInterrupt, SystemExit) as error:
        raise _Carried(error) from error


class BlockingIterator(Iterator[_T]):
    """Draws from an asynchronous iterator of the loop, and blocks meanwhile. `close()` leaves it early."""

    def __init__(self, thread: LoopThread, items: AsyncIterator[_T]) -> None:
        self._thread: Final = thread
        self._items: Final = items

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _T:
        item = self._thread.run(self._draw())
        if item is None:
            raise StopIteration
        return item[0]

    async def _draw(self) -> tuple[_T] | None:
        # StopAsyncIteration cannot travel through a future.
        try:
            return (await anext(self._items),)
        except StopAsyncIteration:
            return None

    def close(self) -> None:
        """End the iterator: nothing more comes. Idempotent."""
        end = getattr(self._items, "aclose", None)
        if end is not None:
            self._thread.run(end())
