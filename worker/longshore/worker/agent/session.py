"""The worker's side of the session: which attempts it holds, and what each message of the server means for them.

It knows no gRPC. Everything here happens in one event loop and never waits; handlers run elsewhere and come back
through the mailbox.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import structlog

from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.agent.lease import Lease
from longshore.worker.agent.outbox import Outbox
from longshore.worker.attempts import outcomes
from longshore.worker.attempts.attempt import Attempt, Key, key_of, ref_of
from longshore.worker.attempts.handlers import Handler, Registry
from longshore.worker.attempts.mailbox import Mailbox
from longshore.worker.clock import boot_time
from longshore.worker.errors import PermanentError, StopReason

_OF_THE_TARGET: Final = "TARGET_"
"""A reason that begins with this word blames a target."""
_log: Final = structlog.stdlib.get_logger("longshore.worker")


class AttemptStarter(Protocol):
    """This protocol runs handlers."""

    def start(self, attempt: Attempt, handler: Handler) -> None:
        """Run a handler, and call `Agent.ended` once, from any thread."""


class Housekeeper(Protocol):
    """This protocol does what the server asks of a worker besides attempts."""

    def park(self, parked: ws.ParkedInstances) -> None:
        """Watch these instances."""

    def pay(self, debt: ws.Debt) -> None:
        """Remove these temps."""

    def forget(self) -> None:
        """Forget what the last connection said: the server tells anew what is parked, and the worker tells anew which
        targets cannot be used."""

    def recheck(self, target: str) -> None:
        """Look whether this target can be used, because an attempt failed because of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLimits:
    """The limits say how much runs at once, and how long the agent waits, in seconds."""

    concurrency: int = 8
    max_wedged: int = 4
    """The worker leaves, to be started anew, when more handlers than this do not end although they were told to."""
    stop_grace: float = 10.0
    """A handler may take so long to end after it was told to; then it is given up."""


class Agent:
    """The agent holds each attempt from its assignment to its acknowledged report."""

    def __init__(
        self,
        *,
        registry: Registry,
        limits: AgentLimits,
        mailbox: Mailbox,
        outbox: Outbox,
        housekeeper: Housekeeper,
        clock: Callable[[], float] = time.monotonic,
        lease_clock: Callable[[], float] = boot_time,
    ) -> None:
        self._registry = registry
        self._limits = limits
        self._mailbox = mailbox
        self._outbox = outbox
        self._housekeeper = housekeeper
        self._clock = clock
        self._lease = Lease(clock=clock, lease_clock=lease_clock)
        self._starter: AttemptStarter | None = None
        self._pending: deque[Attempt] = deque()
        self._running: dict[Key, Attempt] = {}
        self._wedged: dict[Key, Attempt] = {}
        self._unacked: dict[Key, ws.Report] = {}
        self._graces: dict[Key, float] = {}
        self._connected = False
        self._begins = False
        """Whether the server of the newest connection wants to be told before an attempt that runs alone is started."""
        self._asked_to_begin: Key | None = None
        """The attempt whose begin was asked for on this connection. None means that none was."""
        self._credits: int | None = None
        self._maybe_alone = False
        """Whether one of the pending and running attempts may be one that must run alone."""
        self._leave_at: float | None = None
        self.leaving = asyncio.Event()
        """Set when no more work is taken."""
        self.finished = asyncio.Event()
        """Set when the worker is leaving, nothing runs any more, and every report is acknowledged."""
        self.worn_out = False
        """Whether too many handlers are wedged, which means that they do not end although they were told to."""

    def attach(self, starter: AttemptStarter) -> None:
        """Set the starter that runs handlers. Call it before the first connection."""
        self._starter = starter

    def statistics(self) -> dict[str, int]:
        """Count the attempts in each condition."""
        return {
            "waiting": len(self._pending),
            "running": len(self._running),
            "wedged": len(self._wedged),
            "unacknowledged": len(self._unacked),
        }

    @property
    def lease(self) -> float:
        """Return the seconds for which the server believes a silent worker alive; 30 until the server has said so."""
        return self._lease.seconds

    @property
    def lease_confirmed(self) -> bool:
        """Return whether the server has acknowledged a heartbeat that was sent less than a lease ago, as of the last
        tick."""
        return self._lease.confirmed

    @property
    def lease_left(self) -> float:
        """Return the seconds until the server gives this worker up, as far as is known here."""
        return self._lease.left

    @property
    def unanswered(self) -> float:
        """Return the seconds for which the server has left a heartbeat unacknowledged."""
        return self._lease.unanswered if self._connected else 0.0

    @property
    def idle(self) -> bool:
        """Return whether no attempt waits or runs, and every report is acknowledged."""
        return not (self._pending or self._running or self._unacked)

    @property
    def busy(self) -> bool:
        """Return whether attempts are waiting or running."""
        return bool(self._pending or self._running)

    @property
    def deadline(self) -> float | None:
        """Return the monotonic time until which a leaving worker waits for its handlers. None means that it waits for
        ever."""
        return None if self._leave_at is None else self._leave_at + self._limits.stop_grace

    # -- the connection ----------------------------------------------------------------------------------------------

    def held(self) -> list[ws.AttemptRef]:
        """List the attempts that wait, run, or are reported and not acknowledged."""
        keys = [attempt.key for attempt in self._pending] + list(self._running) + list(self._unacked)
        return [ref_of(key) for key in keys]

    def credits(self) -> int:
        """Return how many attempts this worker is ready to hold at once."""
        if self.leaving.is_set():
            return 0
        held = len(self._pending) + len(self._running)
        if self._has_alone():
            return held
        return max(0, self._limits.concurrency - len(self._wedged))

    def _has_alone(self) -> bool:
        # Each attempt's end asks this, and the answer is seldom yes. The flag saves a look at all of them each time.
        if self._maybe_alone:
            self._maybe_alone = any(attempt.alone for attempt in (*self._pending, *self._running.values()))
        return self._maybe_alone

    def welcomed(self, welcome: ws.Welcome) -> None:
        """Say again on a new connection what the last one may have lost."""
        self._connected = True
        self._outbox.heartbeat(self._lease.begin(welcome.lease.ToNanoseconds() / 1e9))
        self._credits = None
        self._begins = welcome.begins
        self._housekeeper.forget()
        self._say_credits()
        for key, report in self._unacked.items():
            self._outbox.report(key, report)
        for key, attempt in self._running.items():
            if attempt.waiting and attempt.request is not None:
                self._outbox.ask(key, attempt.request)
        self._outbox.progress({key: a.progress for key, a in self._running.items() if a.progress is not None})

    def disconnected(self) -> None:
        """Note that the connection is gone. Attempts go on, and what they have to say is kept."""
        self._connected = False
        self._asked_to_begin = None
        self._outbox.clear()

    def received(self, message: ws.WorkResponse) -> None:
        """Act on a message. Grants are taken before cancels, so that what was granted before a cancel stays granted."""
        if message.heartbeat_ack:
            self._lease.acknowledged(message.heartbeat_ack)
        for ack in message.acks:
            self._forget_report(ack)
        for assignment in message.assignments:
            self._assigned(assignment)
        if message.assignments:
            self._admit()
        for begun in message.begun:
            self._may_begin(begun)
        for grant in message.grants:
            self._answered(grant)
        for cancel in message.cancels:
            self._cancelled(cancel)
        for revocation in message.revocations:
            self._revoked(revocation)
        for parked in message.parked:
            self._housekeeper.park(parked)
        for debt in message.debts:
            self._housekeeper.pay(debt)
        if message.HasField("welcome"):
            # An attempt that waits to begin asks this server too. The server's revocations are taken by now.
            self._admit()
        if message.HasField("drain"):
            _log.info("worker_drain", reason=message.drain.reason)
            self.leave(grace=None)
        self._look_whether_finished()

    # -- from other threads ------------------------------------------------------------------------------------------

    def ended(self, attempt: Attempt, report: ws.Report) -> None:
        """Take the report of a handler that has ended. May be called from any thread."""
        self._mailbox.post(partial(self._ended, attempt, report))

    def _ask(self, attempt: Attempt, request: ws.GrantRequest) -> None:
        self._mailbox.post(partial(self._asked, attempt, request))

    # -- leaving -----------------------------------------------------------------------------------------------------

    def leave(self, *, grace: float | None) -> None:
        """Take no more work, hand back what has not begun, and let the rest finish within `grace` seconds. None means
        that there is no limit.

        A second call with a shorter grace shortens the first.
        """
        if not self.leaving.is_set():
            self.leaving.set()
            while self._pending:
                attempt = self._pending.popleft()
                self._report(attempt, outcomes.handed_back(attempt))
            self._say_credits()
        if grace is not None:
            leave_at = self._clock() + grace
            self._leave_at = leave_at if self._leave_at is None else min(self._leave_at, leave_at)
        self._look_whether_finished()

    def give_up(self) -> list[Key]:
        """Report every attempt that still runs, because the process ends now. Returns what was running."""
        left = list(self._running)
        for attempt in list(self._running.values()):
            attempt.tell_stop(StopReason.DRAIN)
            self._abandon(attempt)
        return left

    # -- the clock ---------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Send heartbeats and progress, and enforce time-outs. The caller does this a few times a second."""
        now = self._clock()
        if self._connected and self._lease.due():
            self._outbox.heartbeat(self._lease.beat())
        if self._lease.ended():
            _log.warning(
                "lease_unconfirmed", connected=self._connected, lease=self._lease.seconds, held=len(self.held())
            )
        moved: dict[Key, tuple[int, int]] = {}
        for attempt in list(self._running.values()):
            self._watch(attempt, now)
            if attempt.unsent and attempt.progress is not None:
                attempt.unsent = False
                moved[attempt.key] = attempt.progress
        if self._connected:
            self._outbox.progress(moved)
        if self._leave_at is not None and now >= self._leave_at:
            for attempt in list(self._running.values()):
                self._tell_stop(attempt, StopReason.DRAIN, "DRAIN")
        self._look_whether_finished()

    def _watch(self, attempt: Attempt, now: float) -> None:
        stop = attempt.stop
        if stop is not None:
            if now >= stop.at + self._graces.get(attempt.key, self._limits.stop_grace):
                self._abandon(attempt)
            return
        task = attempt.task
        if task.HasField("run_timeout") and now - attempt.started >= task.run_timeout.ToNanoseconds() / 1e9:
            self._tell_stop(attempt, StopReason.TIMEOUT, outcomes.TIMED_OUT)
        elif (
            task.HasField("stall_timeout")
            # A handler that waits for the server's answer does not stall.
            and not attempt.waiting
            and now - attempt.alive_at >= task.stall_timeout.ToNanoseconds() / 1e9
        ):
            self._tell_stop(attempt, StopReason.TIMEOUT, outcomes.STALLED)

    # -- messages ----------------------------------------------------------------------------------------------------

    def _assigned(self, assignment: ws.Assignment) -> None:
        attempt = Attempt(assignment, ask=self._ask, clock=self._clock)
        key = attempt.key
        if key in self._running or key in self._unacked or any(other.key == key for other in self._pending):
            return
        if self.leaving.is_set():
            self._report(attempt, outcomes.handed_back(attempt))
        else:
            self._pending.append(attempt)
            self._maybe_alone = self._maybe_alone or attempt.alone

    def _admit(self) -> None:
        """Start the attempts that may start. One that runs alone waits for the others, and they wait for it."""
        while self._pending:
            if self._running and self._has_alone() and self._first_waits():
                break
            if not self._is_begun(self._pending[0]):
                break
            self._start(self._pending.popleft())
        self._say_credits()

    def _is_begun(self, attempt: Attempt) -> bool:
        """Return whether an attempt may start. An attempt that runs alone may start once the server has recorded that
        it begins: from then on the handler is suspected if this process dies. Until then the attempt is pending, and
        each new server is asked."""
        if not attempt.alone or attempt.begun or not self._begins:
            return True
        if self._connected and self._asked_to_begin != attempt.key:
            self._asked_to_begin = attempt.key
            self._outbox.begin(attempt.key)
        return False

    def _may_begin(self, answer: ws.Begun) -> None:
        key = key_of(answer.attempt)
        attempt = next((one for one in self._pending if one.key == key), None)
        if attempt is None:
            return
        if answer.begun:
            attempt.begun = True
        else:
            _log.info("attempt_refused", task_id=key[0], attempt=key[1], reason=answer.reason)
            self._pending.remove(attempt)
            if answer.reason == "CANCELLED":
                self._report(attempt, outcomes.never_started(attempt))
        self._admit()

    def _first_waits(self) -> bool:
        return self._pending[0].alone or any(attempt.alone for attempt in self._running.values())

    def _start(self, attempt: Attempt) -> None:
        handler = self._registry.get(attempt.task.kind)
        settling = attempt.assignment.HasField("settle")
        if handler is None or (settling and handler.settle is None):
            what = "settle" if settling else "run"
            error = PermanentError(outcomes.UNKNOWN_KIND, f"this worker cannot {what} the kind {attempt.task.kind!r}")
            self._report(attempt, outcomes.raised(attempt, error))
            return
        attempt.started = attempt.alive_at = self._clock()
        self._running[attempt.key] = attempt
        # Its end is told with all that there is to say; two lines for each attempt were a fifth of the worker's CPU.
        _log.debug(
            "attempt_started", task_id=attempt.key[0], attempt=attempt.number, kind=handler.kind, settling=settling
        )
        if self._starter is None:
            raise RuntimeError("attach() comes before the first connection")
        self._starter.start(attempt, handler)

    def _asked(self, attempt: Attempt, request: ws.GrantRequest) -> None:
        if attempt.waiting and self._connected:
            self._outbox.ask(attempt.key, request)

    def _answered(self, grant: ws.Grant) -> None:
        attempt = self._running.get(key_of(grant.attempt))
        if attempt is None:
            return
        if not grant.granted:
            _log.info("attempt_refused", task_id=attempt.key[0], attempt=attempt.number, reason=grant.reason)
            attempt.refuse(grant.reason)
        elif attempt.grant():
            _log.debug("attempt_granted", task_id=attempt.key[0], attempt=attempt.number)

    def _cancelled(self, cancel: ws.Cancel) -> None:
        key = key_of(cancel.attempt)
        for attempt in self._pending:
            if attempt.key == key:
                self._pending.remove(attempt)
                self._report(attempt, outcomes.never_started(attempt))
                self._admit()
                return
        running = self._running.get(key)
        if running is None or not self._tell_stop(running, StopReason.CANCELLED, "CANCELLED"):
            return
        if cancel.HasField("grace"):
            self._graces[key] = cancel.grace.ToNanoseconds() / 1e9

    def _revoked(self, revocation: ws.Revocation) -> None:
        key = key_of(revocation.attempt)
        self._unacked.pop(key, None)
        self._outbox.withdraw(key)
        for attempt in self._pending:
            if attempt.key == key:
                self._pending.remove(attempt)
                self._admit()
                return
        running = self._running.get(key)
        if running is not None:
            _log.warning("attempt_revoked", task_id=key[0], attempt=key[1], reason=revocation.reason)
            running.revoked = True
            self._tell_stop(running, StopReason.REVOKED, revocation.reason or "REVOKED")

    def _forget_report(self, ack: ws.ReportAck) -> None:
        key = key_of(ack.attempt)
        if self._unacked.pop(key, None) is not None and not ack.accepted:
            _log.warning("report_stale", task_id=key[0], attempt=key[1])

    # -- attempts ----------------------------------------------------------------------------------------------------

    def _tell_stop(self, attempt: Attempt, why: StopReason, reason: str) -> bool:
        if not attempt.tell_stop(why, reason):
            return False
        _log.info("attempt_stopping", task_id=attempt.key[0], attempt=attempt.number, reason=reason)
        return True

    def _ended(self, attempt: Attempt, report: ws.Report) -> None:
        key = attempt.key
        self._graces.pop(key, None)
        if attempt.abandoned:
            self._wedged.pop(key, None)
            _log.info("attempt_ended_late", task_id=key[0], attempt=key[1])
        else:
            del self._running[key]
            if attempt.revoked:
                _log.info("attempt_dropped", task_id=key[0], attempt=key[1])
            else:
                self._report(attempt, report)
        self._admit()
        self._look_whether_finished()

    def _abandon(self, attempt: Attempt) -> None:
        """Go on without a handler that does not end. Its thread cannot be killed, so it keeps its credit."""
        key = attempt.key
        attempt.abandoned = True
        self._graces.pop(key, None)
        del self._running[key]
        self._wedged[key] = attempt
        _log.error("attempt_abandoned", task_id=key[0], attempt=key[1], wedged=len(self._wedged))
        if not attempt.revoked:
            self._report(attempt, outcomes.abandoned(attempt))
        self._admit()
        if len(self._wedged) > self._limits.max_wedged and not self.worn_out:
            self.worn_out = True
            _log.error("worker_worn_out", wedged=len(self._wedged))
            self.leave(grace=self._limits.stop_grace)

    def _report(self, attempt: Attempt, report: ws.Report) -> None:
        if report.error.reason.startswith(_OF_THE_TARGET):
            task = attempt.task
            self._housekeeper.recheck(task.file_push.destination.target or task.job.target)
        self._unacked[attempt.key] = report
        if self._connected:
            self._outbox.report(attempt.key, report)
        # One that is tried again is no news to be alarmed at.
        level = logging.WARNING if report.outcome == ws.OUTCOME_PERMANENT else logging.INFO
        said = outcomes.for_the_log(attempt, report)
        _log.log(level, "attempt_ended", **said, seconds=round(self._clock() - attempt.started, 3))

    def _say_credits(self) -> None:
        credits = self.credits()
        if self._connected and credits != self._credits:
            self._credits = credits
            self._outbox.credits(credits)

    def _look_whether_finished(self) -> None:
        if self.leaving.is_set() and not self._running and not self._pending and not self._unacked:
            self.finished.set()
