"""The rows of the state table."""

from __future__ import annotations

from typing import Final, assert_never

from longshore.server.model.events import (
    BecameHead,
    Began,
    CancelAsked,
    Circumstances,
    Claimed,
    Decision,
    DependencyEnded,
    Due,
    Ending,
    Event,
    ExpiryReached,
    Followed,
    GrantAsked,
    Reported,
    SessionLost,
    SettledByHand,
    SupersededBy,
    TimedOut,
    Verdict,
)
from longshore.server.model.records import changed
from longshore.server.model.states.failures import (
    CRASHED_TOO_OFTEN,
    RAN_TOO_LONG,
    SETTLED_TOO_LONG,
    STOPPED_TOO_LONG,
    UNKNOWN_OUTCOME,
    dependency_failed,
)
from longshore.server.model.states.verdicts import Verdicts
from longshore.server.model.task import Failure, Grant, Status, Task
from longshore.server.model.values import (
    WAITING,
    AttemptEnd,
    Outcome,
    Settlement,
    State,
    WaitReason,
)

_SETTLEMENTS: Final = frozenset({Outcome.SETTLED_REMOVED, Outcome.SETTLED_LANDED, Outcome.SETTLED_NEITHER})
_TOO_LONG: Final = {State.SETTLING: SETTLED_TOO_LONG, State.CANCELLING: STOPPED_TOO_LONG}


def ended_well(state: State | None, *, any_end: bool) -> bool:
    """Tell whether a dependency that ended in `state` lets the tasks after it start. None means that nobody knows how
    it ended."""
    return any_end or state is State.SUCCEEDED


def decide(task: Task, event: Event, world: Circumstances) -> Decision:
    """Apply `event` to `task` by the state table of docs/states.md."""
    return _Table(task, world).decide(event)


class _Table(Verdicts):
    """The rows, as methods."""

    __slots__ = ()

    def decide(self, event: Event) -> Decision:
        match event:
            case BecameHead():
                return self._became_head()
            case Followed():
                return self._followed()
            case DependencyEnded():
                return self._dependency_ended(event)
            case Due():
                return self._due()
            case Claimed():
                return self._claimed(event)
            case Began():
                return self._began(event)
            case GrantAsked():
                return self._grant_asked(event.grant)
            case Reported():
                return self._reported(event)
            case SessionLost():
                return self._session_lost(event)
            case TimedOut():
                return self._timed_out(event)
            case CancelAsked():
                return self._cancel_asked(event)
            case SupersededBy():
                return self._superseded(event)
            case ExpiryReached():
                return self._finish(State.EXPIRED) if self._status.state in WAITING else self._unchanged()
            case SettledByHand():
                return self._settled_by_hand(event.settlement)
            case _:
                assert_never(event)

    # Rows ---------------------------------------------------------------------------------------------------------

    def _became_head(self) -> Decision:
        status = self._status
        if status.state.terminal or status.head or status.unmet:
            return self._unchanged()
        if status.state is State.BLOCKED:
            return self._change(changed(status, state=State.QUEUED, head=True, wait_reason=WaitReason.NONE))
        return Decision(Verdict.QUIET, changed(status, head=True))

    def _followed(self) -> Decision:
        if self._status.state.terminal or self._status.followed:
            return self._unchanged()
        return Decision(Verdict.QUIET, changed(self._status, followed=True))

    def _dependency_ended(self, event: DependencyEnded) -> Decision:
        """Count the dependency down, or end the task, which has touched nothing yet. Without dependencies it can become
        head."""
        status = self._status
        if not status.unmet:
            return self._unchanged()
        if not ended_well(event.state, any_end=self._submission.terms.after_any_end):
            base = changed(self._released(), wait_reason=WaitReason.NONE)
            return self._finish(State.CANCELLED, base=base, error=dependency_failed(event.task_id, event.state))
        left = status.unmet - 1
        reason = status.wait_reason
        if not left and status.state is State.BLOCKED:
            reason = WaitReason.EARLIER_TASK
        return Decision(Verdict.QUIET, changed(status, unmet=left, wait_reason=reason))

    def _due(self) -> Decision:
        status = self._status
        if status.state is not State.SCHEDULED:
            return self._unchanged()
        if status.head:
            return self._change(changed(status, state=State.QUEUED, wait_reason=WaitReason.NONE, due_at=None))
        reason = WaitReason.AFTER if status.unmet else WaitReason.EARLIER_TASK
        return self._change(changed(status, state=State.BLOCKED, wait_reason=reason, due_at=None))

    def _claimed(self, event: Claimed) -> Decision:
        status = self._status
        settling = status.state is State.SETTLING and not status.session_id
        if status.state is not State.QUEUED and not settling:
            return self._stale()
        patience = self._world.policy.settle_timeout if settling else self._submission.terms.run_timeout
        return self._change(
            changed(
                status,
                state=State.SETTLING if settling else State.RUNNING,
                attempt=status.attempt + 1,
                session_id=event.session_id,
                worker=event.worker,
                started_at=None if event.begins and status.alone and not settling else self._world.now,
                deadline_ticks=event.ticks + patience,
                due_at=None,
            )
        )

    def _began(self, event: Began) -> Decision:
        """Record that the attempt began. Only such an attempt can be blamed for the loss of its worker: see
        `_crashed`."""
        status = self._status
        if status.attempt != event.attempt or status.session_id != event.session_id:
            return self._stale()
        if status.state is State.RUNNING and status.started_at is None:
            return self._change(changed(status, started_at=self._world.now))
        return self._unchanged() if status.state in (State.RUNNING, State.COMMITTING) else self._stale()

    def _grant_asked(self, grant: Grant) -> Decision:
        status = self._status
        if status.attempt != grant.attempt or status.session_id != grant.session_id:
            return self._stale()
        if status.state is State.RUNNING:
            # An attempt that asks for a grant has begun, whether its worker said so or not.
            started = self._world.now if status.started_at is None else status.started_at
            return self._change(
                changed(status, state=State.COMMITTING, grant=grant, method=grant.method, started_at=started)
            )
        held = status.grant
        if status.state is State.COMMITTING and held is not None and held.temp == grant.temp:
            return self._unchanged()
        return self._stale()

    def _reported(self, event: Reported) -> Decision:
        status = self._status
        if status.state is State.SETTLING:
            return self._reported_settling(event)
        if status.state is State.SUCCEEDED:
            # The worker sends a report twice if its acknowledgement was lost.
            same = event.attempt == status.attempt and event.outcome is Outcome.OK
            return self._unchanged() if same else self._stale()
        if event.attempt != status.attempt or event.session_id != status.session_id:
            return self._stale()
        if status.state is State.COMMITTING:
            return self._reported_after_grant(event)
        if status.state is State.RUNNING:
            if event.outcome is Outcome.OK:
                return self._stale() if self._submission.work.needs_commit else self._succeeded(event)
            return self._not_done(event)
        if status.state is State.CANCELLING:
            if event.outcome is Outcome.OK:
                return self._stale() if self._submission.work.needs_commit else self._succeeded(event)
            if event.outcome in _SETTLEMENTS:
                # The attempt was never granted: there is nothing to settle, and its report is not believed.
                return self._stale()
            ending = Ending(event.attempt, AttemptEnd(event.outcome.name), event.error)
            return self._finish(State.CANCELLED, endings=(ending,), debts=self._debts_of(event))
        return self._stale()

    def _reported_after_grant(self, event: Reported) -> Decision:
        """Believe the granted attempt: what it says of its own commit is the truth."""
        if event.outcome is Outcome.OK:
            return self._succeeded(event)
        if event.outcome is Outcome.UNKNOWN:
            if self._status.state is State.SETTLING:
                return self._unchanged()
            return self._to_settling(Ending(event.attempt, AttemptEnd.UNKNOWN, event.error), crash=False)
        return self._not_done(event)

    def _reported_settling(self, event: Reported) -> Decision:
        status = self._status
        grant = status.grant
        if grant is not None and event.attempt == grant.attempt and event.session_id == grant.session_id:
            return self._reported_after_grant(event)
        if event.attempt != status.attempt or event.session_id != status.session_id:
            return self._stale()
        match event.outcome:
            case Outcome.SETTLED_REMOVED:
                return self._settled(Settlement.REMOVED, AttemptEnd.SETTLED_REMOVED)
            case Outcome.SETTLED_LANDED:
                return self._settled(Settlement.LANDED, AttemptEnd.SETTLED_LANDED)
            case Outcome.SETTLED_NEITHER:
                return self._settled(Settlement.NEITHER, AttemptEnd.SETTLED_NEITHER)
            case _:
                ending = Ending(event.attempt, AttemptEnd(event.outcome.name), event.error)
                return self._settle_again(ending, pause=event.outcome is not Outcome.HANDED_BACK)

    def _succeeded(self, event: Reported) -> Decision:
        base = self._released(result=event.result, method=event.method or self._status.method)
        endings = self._endings(Ending(event.attempt, AttemptEnd.OK))
        return self._finish(State.SUCCEEDED, base=base, endings=endings, debts=self._debts_of(event))

    def _not_done(self, event: Reported) -> Decision:
        """Take a RUNNING or granted attempt back: its worker says that nothing was and nothing will be put in place."""
        world = self._world
        ending = self._endings(Ending(event.attempt, AttemptEnd(event.outcome.name), event.error))
        debts = self._debts_of(event)
        base = changed(self._released(), method=event.method or self._status.method)
        match event.outcome:
            case Outcome.TRANSIENT:
                return self._transient(base, event.error, event.retry_after, ending, debts)
            case Outcome.PERMANENT:
                state = State.CANCELLED if base.cancel_requested else State.FAILED
                return self._finish(state, base=base, error=event.error, endings=ending, debts=debts)
            case Outcome.NOT_READY:
                parked = changed(base, wait_reason=event.wait_reason, error=event.error or base.error)
                if event.wait_reason not in (WaitReason.INSTANCE_STOPPED, WaitReason.INSTANCE_ABSENT):
                    due = world.now + world.policy.back_off(1, world.jitter)
                    parked = changed(parked, wait_reason=WaitReason.BACK_OFF, due_at=due)
                return self._fall_back(State.SCHEDULED, base=parked, endings=ending, debts=debts)
            case Outcome.HANDED_BACK | Outcome.STOPPED | Outcome.UNKNOWN:
                return self._fall_back(State.QUEUED, base=base, endings=ending, debts=debts)
            case _:
                return self._stale()

    def _transient(
        self,
        base: Status,
        error: Failure | None,
        retry_after: float | None,
        endings: tuple[Ending, ...],
        debts: tuple[tuple[int, str], ...],
    ) -> Decision:
        world = self._world
        tries = base.tries + 1
        base = changed(base, tries=tries, error=error or base.error)
        if tries >= self._submission.terms.attempt_limit:
            state = State.CANCELLED if base.cancel_requested else State.FAILED
            return self._finish(state, base=base, endings=endings, debts=debts)
        pause = retry_after if retry_after is not None else world.policy.back_off(tries, world.jitter)
        base = changed(base, wait_reason=WaitReason.BACK_OFF, due_at=world.now + pause)
        return self._fall_back(State.SCHEDULED, base=base, endings=endings, debts=debts)

    def _session_lost(self, event: SessionLost) -> Decision:
        status = self._status
        if status.session_id != event.session_id or status.attempt != event.attempt or not status.session_id:
            return self._unchanged()
        ending = Ending(status.attempt, AttemptEnd.LOST if event.crash else AttemptEnd.NEVER_ARRIVED)
        match status.state:
            case State.RUNNING:
                base = self._crashed(self._released()) if event.crash else self._released()
                debts = self._debts_of_loss() if event.crash else ()
                if base.solo_crashes >= self._world.policy.solo_limit:
                    state = State.CANCELLED if base.cancel_requested else State.FAILED
                    return self._finish(state, base=base, error=CRASHED_TOO_OFTEN, endings=(ending,), debts=debts)
                return self._fall_back(State.QUEUED, base=base, endings=(ending,), debts=debts)
            case State.COMMITTING:
                return self._to_settling(ending, crash=event.crash)
            case State.CANCELLING:
                return self._finish(State.CANCELLED, endings=(ending,), debts=self._debts_of_loss())
            case State.SETTLING:
                return self._settle_again(ending, pause=event.crash)
            case _:
                return self._unchanged()

    def _timed_out(self, event: TimedOut) -> Decision:
        status = self._status
        if status.attempt != event.attempt or not status.session_id:
            return self._unchanged()
        ending = Ending(status.attempt, AttemptEnd.TIMED_OUT, _TOO_LONG.get(status.state, RAN_TOO_LONG))
        match status.state:
            case State.RUNNING:
                return self._transient(self._released(), RAN_TOO_LONG, None, (ending,), self._debts_of_loss())
            case State.COMMITTING:
                return self._to_settling(ending, crash=False)
            case State.CANCELLING:
                return self._finish(State.CANCELLED, endings=(ending,), debts=self._debts_of_loss())
            case State.SETTLING:
                return self._settle_again(ending, pause=True)
            case _:
                return self._unchanged()

    def _cancel_asked(self, event: CancelAsked) -> Decision:
        status = self._status
        if status.state.terminal or status.cancel_requested:
            return self._unchanged()
        return self._stop(changed(status, cancel_requested=True, cancel_reason=event.reason), event.ticks)

    def _superseded(self, event: SupersededBy) -> Decision:
        status = self._status
        if status.state.terminal or status.cancel_requested:
            return self._unchanged()
        return self._stop(changed(status, cancel_requested=True, superseded_by=event.task_id), event.ticks)

    def _stop(self, asked: Status, ticks: float) -> Decision:
        """End a waiting task, and ask a running one to stop. After the grant the wish is noted."""
        if asked.state in WAITING:
            base = changed(asked, wait_reason=WaitReason.NONE, due_at=None)
            return self._finish(State.CANCELLED, base=base)
        if asked.state is State.RUNNING:
            grace = ticks + self._world.policy.cancel_grace
            return self._change(changed(asked, state=State.CANCELLING, deadline_ticks=grace))
        return self._change(asked)

    def _settled_by_hand(self, settlement: Settlement) -> Decision:
        if self._status.state is not State.SETTLING:
            return self._stale()
        return self._settled(settlement, AttemptEnd.OVERTAKEN)

    # Settling -----------------------------------------------------------------------------------------------------

    def _to_settling(self, ending: Ending, *, crash: bool) -> Decision:
        status = self._crashed(self._status) if crash else self._status
        return self._change(
            changed(
                status,
                state=State.SETTLING,
                session_id="",
                deadline_ticks=None,
                due_at=self._world.now,
                wait_reason=WaitReason.SETTLING,
            ),
            (ending,),
        )

    def _settle_again(self, ending: Ending, *, pause: bool) -> Decision:
        """Stay in SETTLING. No timer and no failure leaves that state: only proof or an operator does."""
        world = self._world
        wait = world.policy.back_off(min(self._status.attempt, 10), world.jitter) if pause else 0.0
        return self._change(
            changed(self._status, session_id="", deadline_ticks=None, due_at=world.now + wait), (ending,)
        )

    def _settled(self, settlement: Settlement, end: AttemptEnd) -> Decision:
        status = self._status
        endings = (Ending(status.attempt, end),) if status.session_id else ()
        base = self._released()
        # Settling took care of the granted temp; earlier tries of the lost attempt may have left others.
        grant = status.grant
        debts = ((grant.attempt, ""),) if grant is not None and self._submission.work.leaves_temps else ()
        if settlement is Settlement.LANDED:
            return self._finish(State.SUCCEEDED, base=base, endings=endings, debts=debts)
        if settlement is Settlement.NEITHER and base.cancel_requested:
            return self._finish(State.FAILED, base=base, error=UNKNOWN_OUTCOME, endings=endings, debts=debts)
        if base.solo_crashes >= self._world.policy.solo_limit and not base.cancel_requested:
            return self._finish(State.FAILED, base=base, error=CRASHED_TOO_OFTEN, endings=endings, debts=debts)
        return self._fall_back(State.QUEUED, base=base, endings=endings, debts=debts)
