"""What can happen to a task, and what a decision about it says. The table itself is `states`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from longshore.server.model.records import record
from longshore.server.model.task import AnyValue, Failure, Grant, Status
from longshore.server.model.values import AttemptEnd, DeliveryMethod, Outcome, Settlement, WaitReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The numbers that the table needs. Times in seconds."""

    solo_limit: int = 3
    """Crashes while alone, after the handler began, that fail a task. One could be anybody's fault."""
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
class Due:
    """Its time has come, or the instance it is parked for is ready."""


@record
class Claimed:
    """A session takes it."""

    session_id: str
    worker: str
    ticks: float
    begins: bool = False
    """It says when an attempt that runs alone begins."""


@dataclass(frozen=True, slots=True)
class Began:
    """The attempt's worker is about to start the handler."""

    session_id: str
    attempt: int


@record
class GrantAsked:
    """The attempt wants to commit."""

    grant: Grant


@record
class Reported:
    """The attempt's worker says how it ended."""

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
    """The lease of the session that holds the attempt ended; `crash` is false where the session lives but never got
    it."""

    session_id: str
    attempt: int
    crash: bool = True


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The attempt's run time-out, its cancel's grace or its settling's time is over."""

    attempt: int


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Somebody asks for an end."""

    reason: str
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
    | Due
    | Claimed
    | Began
    | GrantAsked
    | Reported
    | SessionLost
    | TimedOut
    | CancelAsked
    | ExpiryReached
    | SettledByHand
)


class Verdict(Enum):
    """What an event did."""

    CHANGED = "changed"
    """A new revision."""
    QUIET = "quiet"
    """A new status that nobody can see (a head that is not due yet): no revision, no event."""
    UNCHANGED = "unchanged"
    """Nothing to do, and that is right."""
    STALE = "stale"
    """Refused: something else had been committed first."""


@record
class Ending:
    """An attempt that ended with this decision."""

    attempt: int
    end: AttemptEnd
    error: Failure | None = None


@record
class Decision:
    """What becomes of the task. `debts`: attempts whose temps may be left behind, with the one temp if it is known."""

    verdict: Verdict
    status: Status
    endings: tuple[Ending, ...] = ()
    debts: tuple[tuple[int, str], ...] = ()


@record
class Circumstances:
    """What the world adds to a decision: the wall clock (seconds) and a random draw in [0, 1)."""

    now: float
    jitter: float
    policy: Policy
