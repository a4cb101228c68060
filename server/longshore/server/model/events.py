"""Events that can happen to a task, and decisions about them. The table itself is `states`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from longshore.server.model.records import record
from longshore.server.model.task import AnyValue, Failure, Grant, Status
from longshore.server.model.values import AttemptEnd, DeliveryMethod, Outcome, Settlement, State, WaitReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The numbers that the table needs. Times in seconds."""

    solo_limit: int = 3
    """Crashes while alone, after the handler began, that fail a task. A single one could have any cause."""
    back_off_first: float = 1.0
    back_off_most: float = 300.0
    cancel_grace: float = 30.0
    settle_timeout: float = 120.0
    retention: float = 24 * 3600.0
    """How long the payload of a task that did not succeed is kept for a retry."""

    def back_off(self, tries: int, jitter: float) -> float:
        """Seconds until the next try after `tries` failures (1 or more); `jitter` is uniform in [0, 1).

        Exponential with "equal jitter" (half fixed, half random; M. Brooker, "Exponential Backoff And Jitter", AWS
        Architecture Blog, 2015): the fixed half keeps a failing target from being hit at once by an unlucky draw.
        """
        ceiling = min(self.back_off_most, self.back_off_first * 2.0 ** min(tries - 1, 30))
        return float(ceiling * (0.5 + 0.5 * jitter))


@dataclass(frozen=True, slots=True)
class BecameHead:
    """Every earlier task for the destination is terminal."""


@dataclass(frozen=True, slots=True)
class Followed:
    """A task is accepted that comes after this one."""


@dataclass(frozen=True, slots=True)
class DependencyEnded:
    """A task that this one comes after has ended in `state`. None means that its history is removed, so that nobody
    knows how it ended."""

    task_id: str
    state: State | None


@dataclass(frozen=True, slots=True)
class Due:
    """The task's time has come, or the instance that it is parked for is ready."""


@record
class Claimed:
    """A session takes the task."""

    session_id: str
    worker: str
    ticks: float
    begins: bool = False
    """Whether the session says when an attempt that runs alone begins."""


@dataclass(frozen=True, slots=True)
class Began:
    """The attempt's worker is about to start the handler."""

    session_id: str
    attempt: int


@record
class GrantAsked:
    """The attempt asks for a grant."""

    grant: Grant


@record
class Reported:
    """The attempt's worker says how the attempt ended."""

    session_id: str
    attempt: int
    outcome: Outcome
    error: Failure | None = None
    result: AnyValue | None = None
    wait_reason: WaitReason = WaitReason.NONE
    retry_after: float | None = None
    method: DeliveryMethod = DeliveryMethod.UNKNOWN
    left_temps: bool = False


@dataclass(frozen=True, slots=True)
class SessionLost:
    """The lease of the session that holds the attempt ended. `crash` is false where the session lives but never got
    the attempt."""

    session_id: str
    attempt: int
    crash: bool = True


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The attempt's run time-out, its cancel's grace or its settling's time is over."""

    attempt: int


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """A caller asks for the task to be cancelled."""

    reason: str
    ticks: float


@dataclass(frozen=True, slots=True)
class SupersededBy:
    """A later task for the same destination or key takes the task's place."""

    task_id: str
    ticks: float


@dataclass(frozen=True, slots=True)
class ExpiryReached:
    """`expires_at` has passed."""


@dataclass(frozen=True, slots=True)
class SettledByHand:
    """An operator says what became of the commit."""

    settlement: Settlement


Event = (
    BecameHead
    | Followed
    | DependencyEnded
    | Due
    | Claimed
    | Began
    | GrantAsked
    | Reported
    | SessionLost
    | TimedOut
    | CancelAsked
    | SupersededBy
    | ExpiryReached
    | SettledByHand
)


class Verdict(Enum):
    """The kind of effect that an event had."""

    CHANGED = "changed"
    """The task has a new revision."""
    QUIET = "quiet"
    """The task has a new status that nobody can see (a head that is not due yet): no revision, no event."""
    UNCHANGED = "unchanged"
    """There is nothing to do, and that is right."""
    STALE = "stale"
    """The event is refused: something else had been committed first."""


@record
class Ending:
    """An attempt that ended with this decision."""

    attempt: int
    end: AttemptEnd
    error: Failure | None = None


@record
class Decision:
    """A decision says what becomes of the task. `debts` has attempts that may leave temps behind, and the temp if
    known."""

    verdict: Verdict
    status: Status
    endings: tuple[Ending, ...] = ()
    debts: tuple[tuple[int, str], ...] = ()


@record
class Circumstances:
    """The facts from outside that a decision needs: the wall clock (seconds) and a random draw in [0, 1)."""

    now: float
    jitter: float
    policy: Policy
