"""What a decision can be: nothing, a change, an end, or the way back from a worker to waiting."""

from __future__ import annotations

from typing import Any

from longshore.server.model.events import Circumstances, Decision, Ending, Reported, Verdict
from longshore.server.model.records import changed
from longshore.server.model.states.failures import superseded
from longshore.server.model.task import Failure, Status, Task
from longshore.server.model.values import AttemptEnd, State, WaitReason


class Verdicts:
    """One decision: the task, the world, and the verdicts that the rows of the table choose from."""

    __slots__ = ("_status", "_submission", "_world")

    def __init__(self, task: Task, world: Circumstances) -> None:
        self._submission = task.submission
        self._status = task.status
        self._world = world

    def _unchanged(self) -> Decision:
        return Decision(Verdict.UNCHANGED, self._status)

    def _stale(self) -> Decision:
        return Decision(Verdict.STALE, self._status)

    def _change(
        self, status: Status, endings: tuple[Ending, ...] = (), debts: tuple[tuple[int, str], ...] = ()
    ) -> Decision:
        numbered = changed(status, revision=self._status.revision + 1, updated_at=self._world.now)
        return Decision(Verdict.CHANGED, numbered, endings, debts)

    def _released(self, **more: Any) -> Status:
        """Return the status without holder, deadline and grant, and with `more`."""
        return changed(
            self._status,
            session_id="",
            deadline_ticks=None,
            due_at=None,
            grant=None,
            wait_reason=WaitReason.NONE,
            **more,
        )

    def _finish(
        self,
        state: State,
        *,
        base: Status | None = None,
        error: Failure | None = None,
        endings: tuple[Ending, ...] = (),
        debts: tuple[tuple[int, str], ...] = (),
    ) -> Decision:
        now = self._world.now
        base = base or self._released()
        kept = None if state is State.SUCCEEDED else now + self._world.policy.retention
        by = base.superseded_by
        if by:
            # A commit that was granted before may have ended in another way.
            base = changed(base, superseded_by=by if state is State.CANCELLED else "")
            error = superseded(by) if state is State.CANCELLED else error
        ended = changed(
            base,
            revision=self._status.revision + 1,
            updated_at=now,
            state=state,
            head=False,
            unmet=0,
            error=None if state is State.SUCCEEDED else (error or base.error),
            finished_at=now,
            retryable_until=kept,
        )
        return Decision(Verdict.CHANGED, ended, endings, debts)

    def _fall_back(
        self,
        state: State,
        *,
        base: Status,
        endings: tuple[Ending, ...],
        debts: tuple[tuple[int, str], ...] = (),
    ) -> Decision:
        """Take the task from a worker back to waiting, unless a cancel or the expiry ends it: the dagger of the
        table."""
        if base.cancel_requested:
            return self._finish(
                State.CANCELLED,
                base=changed(base, wait_reason=WaitReason.NONE, due_at=None),
                endings=endings,
                debts=debts,
            )
        if self._submission.expires_at <= self._world.now:
            return self._finish(
                State.EXPIRED,
                base=changed(base, wait_reason=WaitReason.NONE, due_at=None),
                endings=endings,
                debts=debts,
            )
        return self._change(changed(base, state=state), endings, debts)

    def _endings(self, ending: Ending) -> tuple[Ending, ...]:
        """`ending`, and the end of a settling attempt that it overtakes."""
        status = self._status
        if status.state is State.SETTLING and status.session_id and status.attempt != ending.attempt:
            return (ending, Ending(status.attempt, AttemptEnd.OVERTAKEN))
        return (ending,)

    def _crashed(self, status: Status) -> Status:
        # Only an attempt that ran alone and had begun counts. Where workers die by themselves, the loss of one before
        # its handler ran proves nothing.
        counts = status.alone and status.started_at is not None
        return changed(
            status,
            crashes=status.crashes + 1,
            solo_crashes=status.solo_crashes + counts,
            alone=True,
        )

    def _debts_of_loss(self) -> tuple[tuple[int, str], ...]:
        if not self._submission.work.leaves_temps:
            return ()
        return ((self._status.attempt, ""),)

    def _debts_of(self, event: Reported) -> tuple[tuple[int, str], ...]:
        if not event.left_temps or not self._submission.work.leaves_temps:
            return ()
        return ((event.attempt, ""),)
