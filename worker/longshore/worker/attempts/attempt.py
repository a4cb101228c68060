"""One attempt: what its handler, its context and the agent know together.

Handlers live in threads, the agent in its event loop. Everything here may be called from either; what changes is
guarded by one lock, and what is only ever replaced by a new value (stop, progress) is read without it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from longshore.v1 import task_pb2
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.errors import AttemptStopped, GrantRefused, StopReason

Key = tuple[str, int]
"""Task id and attempt number."""

_REFUSALS: Final = {"CANCELLED": StopReason.CANCELLED}


def key_of(ref: ws.AttemptRef) -> Key:
    """Return an attempt's name as a dictionary key."""
    return ref.task_id, ref.attempt


def ref_of(key: Key) -> ws.AttemptRef:
    """Make an attempt's name of a dictionary key."""
    return ws.AttemptRef(task_id=key[0], attempt=key[1])


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop tells why an attempt must end, which reason its report will carry, and since when (monotonic seconds)."""

    why: StopReason
    reason: str
    at: float

    def error(self) -> AttemptStopped:
        return AttemptStopped(self.why, f"the attempt was told to end: {self.reason}")


class Attempt:
    """An attempt from its assignment to its end.

    `ask` brings a commit's question to the agent; the answer comes through `grant` or `refuse`.
    """

    def __init__(
        self,
        assignment: ws.Assignment,
        *,
        ask: Callable[[Attempt, ws.GrantRequest], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.assignment: Final = assignment
        self.task: Final[task_pb2.Task] = assignment.task
        self.number: Final[int] = assignment.attempt
        self.key: Final[Key] = (assignment.task.id, assignment.attempt)
        self.alone: Final[bool] = assignment.alone
        self.begun = False
        """Whether the server has recorded that this attempt, which runs alone, begins."""
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._stop: Stop | None = None
        self._stopped: threading.Event | None = None
        self._on_stop: list[Callable[[], None]] = []
        self._waiting: Future[None] | None = None
        self.request: ws.GrantRequest | None = None
        """The grant request, kept to be sent again after a reconnect. None means that no commit was asked for."""
        self.granted = False
        """Whether the commit is granted. From then on only the handler can say what became of it."""
        self.revoked = False
        """Whether the server took the attempt away: it wants no report."""
        self.abandoned = False
        """Whether the agent has reported the attempt without its handler, which does not end."""
        self.started = clock()
        self.progress: tuple[int, int] | None = None
        self.unsent = False
        """Whether there is newer progress than the server has been told."""
        self.alive_at = self.started
        """The time of the last sign of progress, for `stall_timeout`."""
        self.method: task_pb2.DeliveryMethod.ValueType = task_pb2.DELIVERY_METHOD_UNSPECIFIED
        self.left_temps = False
        """Whether the handler said that something of its own is still at the target, although it succeeded."""

    # -- what the handler does ---------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AttemptStopped once the attempt has been told to end."""
        stop = self._stop
        if stop is not None:
            raise stop.error()

    def advance(self, done: int, total: int) -> None:
        """Note progress; the agent sends the newest now and then."""
        self.progress = (done, total)
        self.unsent = True
        self.alive_at = self._clock()

    def touch(self) -> None:
        """Note a sign of life that is no progress of the handler's own: bytes of the payload arrived."""
        self.alive_at = self._clock()

    def wait(self, seconds: float) -> None:
        """Sleep; raises AttemptStopped as soon as the attempt is told to end."""
        with self._lock:
            if self._stopped is None:
                self._stopped = threading.Event()
                if self._stop is not None:
                    self._stopped.set()
        self._stopped.wait(seconds)
        self.check()

    def commit(self, request: ws.GrantRequest) -> Future[None]:
        """Ask for the grant. The future ends well when it is given, with AttemptStopped or GrantRefused otherwise.

        Asking again for the same temp answers the same, for another one it is a mistake (ValueError). Cancelling the
        future changes nothing: the question has been asked.
        """
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if (self.granted or self._waiting is not None) and self.request != request:
                raise ValueError("another commit of this attempt was asked for: a grant is for one")
            if self._waiting is not None:
                return self._waiting
            if self.granted:
                future.set_result(None)
                return future
            if self._stop is not None:
                future.set_exception(self._stop.error())
                return future
            self.request = request
            self.method = request.delivery_method
            self._waiting = future
        self._ask(self, request)
        return future

    def on_stop(self, call: Callable[[], None]) -> Callable[[], None]:
        """Have `call` made when the attempt is told to end (at once if it was); returns what takes it back.

        It is called in the agent's loop and must not block.
        """
        with self._lock:
            if self._stop is None:
                self._on_stop.append(call)
                return lambda: self._forget(call)
        call()
        return lambda: None

    def _forget(self, call: Callable[[], None]) -> None:
        with self._lock:
            if call in self._on_stop:
                self._on_stop.remove(call)

    # -- what the agent does -----------------------------------------------------------------------------------------

    @property
    def stop(self) -> Stop | None:
        """Return why the attempt must end. None means that it was not told to."""
        return self._stop

    @property
    def waiting(self) -> bool:
        """Return whether the handler waits for the answer to a grant request."""
        return self._waiting is not None

    def tell_stop(self, why: StopReason, reason: str = "") -> bool:
        """Tell the attempt to end. Returns False when it has been told before, or when it is too late.

        After the grant a cancel or a leaving worker comes too late: the handler is let finish. A waiting commit is
        answered with the stop. If the grant arrives later, no handler acts on it, so the commit never happens.
        """
        with self._lock:
            if self._stop is not None:
                return False
            if self.granted and why in (StopReason.CANCELLED, StopReason.DRAIN):
                return False
            self._stop = Stop(why, reason or why.value, self._clock())
            waiting, self._waiting = self._waiting, None
            calls, self._on_stop = self._on_stop, []
            stopped = self._stopped
        if stopped is not None:
            stopped.set()
        if waiting is not None:
            waiting.set_exception(self._stop.error())
        for call in calls:
            call()
        return True

    def grant(self) -> bool:
        """Let the handler commit. Returns False when the handler does not wait for the grant any more."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
            if waiting is None:
                return False
            self.granted = True
        waiting.set_result(None)
        return True

    def refuse(self, reason: str) -> None:
        """Tell the handler that the commit was refused, for the `reason` that the server gave."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            why = _REFUSALS.get(reason, StopReason.REVOKED)
            waiting.set_exception(GrantRefused(why, f"the server refused the commit: {reason or 'no reason given'}"))
