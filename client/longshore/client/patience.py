"""When to try again, after how long, and when to give up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from longshore.client.errors import Aborted, Internal, LongshoreError, ResourceExhausted, Unavailable

_T = TypeVar("_T")

FIRST_DELAY: Final = 0.1
"""Seconds before the second try; doubled from try to try."""
LONGEST_DELAY: Final = 5.0
"""Seconds. Longer waits only when the server asks for them."""

OnWait = Callable[[LongshoreError, float], None]
"""Told before each pause: what went wrong, and how many seconds until the next try."""


def may_pass(error: BaseException) -> bool:
    """Another try of the same call may succeed.

    Every call is idempotent, by its request id or by nature, so nothing is ever done twice. An early end of a stream
    can reach the caller as INTERNAL or UNKNOWN; those are cuts when Longshore itself did not send them.
    """
    match error:
        case Unavailable():
            return True
        case ResourceExhausted():
            # From the transport it means that a message is too large, and so will the next one be.
            return error.from_server
        case Aborted():
            return error.reason == "UPLOAD_IN_PROGRESS"
        case Internal():
            return not error.from_server and error.reason in {"INTERNAL", "UNKNOWN"}
        case _:
            return False


def delay(error: LongshoreError, *, failures: int, jitter: float) -> float:
    """Seconds until the next try after `failures` (1 or more) in a row; `jitter` is a random number in [0, 1).

    Exponential, between half and the whole of each step, so that clients cut together do not come back together. Never
    sooner than the server asked, and up to a quarter later.
    """
    step = min(FIRST_DELAY * 2.0 ** min(failures - 1, 16), LONGEST_DELAY)
    own = step * (0.5 + jitter / 2)
    return own if error.retry_after is None else max(own, error.retry_after * (1 + jitter / 4))


class Patience:
    """Goes on trying for `limit` seconds in a row without getting anywhere; `moved()` starts them anew.

    The next try is not waited for when it would come too late: then the error is raised at once. For one caller at a
    time. A cancellation ends a pause like any other await.
    """

    def __init__(
        self,
        *,
        limit: float,
        on_wait: OnWait | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._limit: Final = limit
        self._on_wait: Final = on_wait
        self._clock: Final = clock
        self._jitter: Final = jitter
        self._sleep: Final = sleep
        self._since = clock()
        self._failures = 0

    def moved(self) -> None:
        """Something was achieved: the patience is whole again, and so is the back-off."""
        self._since = self._clock()
        self._failures = 0

    async def run(self, once: Callable[[], Awaitable[_T]]) -> _T:
        """What `once` returns, over as many tries as it takes. Raises its last error."""
        retrying = AsyncRetrying(
            retry=retry_if_exception(may_pass),
            wait=self._wait,
            stop=self._stop,
            before_sleep=self._tell,
            sleep=self._sleep,
            reraise=True,
        )

        async def attempt() -> _T:
            # tenacity awaits only what it can see is a coroutine function.
            return await once()

        return await retrying(attempt)

    def _wait(self, state: RetryCallState) -> float:
        self._failures += 1
        return delay(_error_of(state), failures=self._failures, jitter=self._jitter())

    def _stop(self, state: RetryCallState) -> bool:
        return self._clock() - self._since + state.upcoming_sleep > self._limit

    def _tell(self, state: RetryCallState) -> None:
        if self._on_wait is not None:
            self._on_wait(_error_of(state), state.upcoming_sleep)


def _error_of(state: RetryCallState) -> LongshoreError:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, LongshoreError), error
    return error
