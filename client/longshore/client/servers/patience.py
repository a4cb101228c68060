"""Patience decides whether a call is tried again, after how long, and when the client gives up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from longshore.client.errors import Aborted, Internal, LongshoreError, ResourceExhausted, Unavailable

_T = TypeVar("_T")

FIRST_DELAY: Final = 0.1
"""Seconds before the second try; doubled from try to try."""
LONGEST_DELAY: Final = 5.0
"""Seconds between tries at a server that says it cannot. Longer waits only when it asks for them."""
LONGEST_CUT: Final = 1.0
"""Seconds between tries where nobody answers, or the connection broke: asking there costs nobody anything, and a server
that restarts again and again may be up for a second only."""

_LEAVING: Final = frozenset({"DRAINING", "UPLOAD_BROKEN"})
"""A server gives these reasons because a connection ends, and not because it has too much to do."""

OnWait = Callable[[LongshoreError, float], None]
"""A function that is told before each pause what went wrong, and how many seconds pass until the next try."""


def may_pass(error: BaseException) -> bool:
    """Return whether another try of the same call may succeed.

    Every call is idempotent, by its request id or by nature, so nothing is ever done twice. An early end of a stream
    can reach the caller as INTERNAL or UNKNOWN; those are cuts when Longshore itself did not send them.
    """
    match error:
        case Unavailable():
            return True
        case ResourceExhausted():
            # From the transport it means that a message is too large, and so will the next one be.
            return error.from_server and error.reason != "MESSAGE_TOO_LARGE"
        case Aborted():
            return error.reason == "UPLOAD_IN_PROGRESS"
        case Internal():
            return not error.from_server and error.reason in {"INTERNAL", "UNKNOWN"}
        case _:
            return False


def delay(error: LongshoreError, *, failures: int, jitter: float) -> float:
    """Return the seconds until the next try after `failures` (1 or more) in a row; `jitter` is a random number in [0,
    1).

    Exponential, between half and the whole of each step, so that clients cut together do not come back together. Never
    sooner than the server asked, and up to a quarter later.
    """
    cut = isinstance(error, Unavailable | Internal) and (not error.from_server or error.reason in _LEAVING)
    step = min(FIRST_DELAY * 2.0 ** min(failures - 1, 16), LONGEST_CUT if cut else LONGEST_DELAY)
    own = step * (0.5 + jitter / 2)
    return own if error.retry_after is None else max(own, error.retry_after * (1 + jitter / 4))


class Route(Protocol):
    """The way of a call over several servers."""

    def worked(self) -> None:
        """Note that the server answers."""

    def failed(self, error: LongshoreError) -> bool:
        """Note that the server could not serve the call. Returns whether another one may be asked at once."""

    def rested(self) -> None:
        """Note that time has passed, so that every server may be asked again."""

    @property
    def hopeless(self) -> bool:
        """Return whether time will mend none of the answers since the last rest."""


class Patience:
    """Goes on trying for `limit` seconds in a row without getting anywhere; `moved()` starts them anew.

    A try that fails goes to the next server at once, until all were asked; then comes a pause. The next round is not
    waited for when it would come too late: then the error is raised at once, and also when every server's certificate
    is wrong. For one caller at a time. A cancellation ends a pause like any other await.
    """

    def __init__(
        self,
        *,
        limit: float,
        route: Route,
        on_wait: OnWait | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._limit: Final = limit
        self._route: Final = route
        self._on_wait: Final = on_wait
        self._clock: Final = clock
        self._jitter: Final = jitter
        self._sleep: Final = sleep
        self._since = clock()
        self._failures = 0

    def moved(self) -> None:
        """Note that the call got further: the patience and the back-off begin anew."""
        self._since = self._clock()
        self._failures = 0
        self._route.worked()
        self._route.rested()

    async def run(self, once: Callable[[], Awaitable[_T]]) -> _T:
        """Call `once` until it succeeds, and return its answer. Raises its last error when patience is over."""
        while True:
            try:
                answer = await once()
            except LongshoreError as error:
                await self._after(error)
            else:
                self._route.worked()
                return answer

    async def _after(self, error: LongshoreError) -> None:
        """Return when it is time for the next try; raise the error when there is to be none."""
        if not may_pass(error):
            self._route.worked()
            raise error
        if self._route.failed(error):
            return
        self._failures += 1
        pause = delay(error, failures=self._failures, jitter=self._jitter())
        if self._route.hopeless or self._clock() - self._since + pause > self._limit:
            raise error
        if self._on_wait is not None:
            self._on_wait(error, pause)
        await self._sleep(pause)
        self._route.rested()
