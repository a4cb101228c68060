"""The server remembers how the newest attempts on each target went: a daemon that hangs shows in no other figure."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from longshore.server.model.clock import Clock
from longshore.server.model.task import Status
from longshore.server.model.values import PARKED, State, WaitReason
from longshore.server.store.protocol import Changes, Store, TaskChange, what_targets_do

KEPT: Final = 20
"""Attempts that are looked at, on each target."""
_MOST: Final = 10_000
"""Targets that are remembered; the one that was heard of least recently goes first."""
_OF_THE_TARGET: Final = "TARGET_"
"""The prefix of the reasons that blame a target."""


@dataclass(frozen=True, slots=True)
class Recent:
    """Counts how many of the newest attempts on a target failed because of it. `since` is when the first of those that
    failed one after the other up to now did, in wall-clock seconds. None, with an empty `reason`, means that the newest
    attempt did not fail because of the target."""

    attempts: int = 0
    failures: int = 0
    reason: str = ""
    since: float | None = None


class TargetAttempts:
    """Remembers the attempts that ended since this server started. It hears of commits, those of other servers too."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._clock = clock
        self._ended: OrderedDict[str, deque[tuple[str, float]]] = OrderedDict()
        """Maps targets to their ends, the newest last: the reason if it is the target's fault, else empty, and when."""
        store.subscribe(self._on_commit, wants=what_targets_do)

    def of(self, target: str) -> Recent:
        """Return how the newest attempts on the target went."""
        ended = self._ended.get(target)
        if not ended:
            return Recent()
        reason, since = ended[-1][0], None
        for blamed, at in reversed(ended):
            if not blamed:
                break
            since = at
        return Recent(len(ended), sum(bool(blamed) for blamed, _ in ended), reason, since)

    def targets(self) -> list[str]:
        """Return the targets of which the newest attempt failed because of the target."""
        return [target for target, ended in self._ended.items() if ended[-1][0]]

    def passed(self, target: str) -> None:
        """Forget the attempts on a target that a worker can use again: what was before says nothing of now."""
        self._ended.pop(target, None)

    def _on_commit(self, changes: Changes) -> None:
        for change in changes.tasks:
            if change.holder is not None:
                self._look(change, change.holder)

    def _look(self, change: TaskChange, holder: tuple[str, int]) -> None:
        status, target = change.task.status, change.task.submission.target
        if not target or (status.session_id, status.attempt) == holder:
            return
        blamed = _blame(status)
        if blamed is None:
            return
        ended = self._ended.get(target)
        if ended is None:
            if len(self._ended) >= _MOST:
                self._ended.popitem(last=False)
            ended = self._ended[target] = deque(maxlen=KEPT)
        ended.append((blamed, self._clock.now()))
        self._ended.move_to_end(target)


def _blame(status: Status) -> str | None:
    """Return the reason if an attempt that has just ended failed because of its target, empty if the target did its
    part. None means that the end says nothing of the target: the worker was lost, somebody cancelled, time was over."""
    if status.state is State.SUCCEEDED or status.wait_reason in PARKED:
        return ""
    failed = status.state is State.FAILED or (
        status.state is State.SCHEDULED and status.wait_reason is WaitReason.BACK_OFF
    )
    if not failed or status.error is None or status.error.reason in _OF_NO_TARGET:
        return None
    return status.error.reason if status.error.reason.startswith(_OF_THE_TARGET) else ""


_OF_NO_TARGET: Final = frozenset({"OUTCOME_UNKNOWN", "PAYLOAD_UNAVAILABLE", "STALLED", "TIMED_OUT", "WORKER_CRASHED"})
"""Reasons of ends that say nothing of the target."""
