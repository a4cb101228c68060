"""This module makes and changes the tasks of a transaction, and notes what follows from each change."""

from __future__ import annotations

from collections.abc import Callable

from longshore.server.model.events import Decision, Event, Policy, Verdict
from longshore.server.model.task import Status, Submission, Task
from longshore.server.model.values import State
from longshore.server.store.protocol import Changes, TaskChange
from longshore.server.store.transaction.counters import KEY_RUNNING, TARGET_RUNNING
from longshore.server.store.transaction.decider import Decider
from longshore.server.store.transaction.limits import ConcurrencyLimits
from longshore.server.store.transaction.loaded_tasks import LoadedTask, first_status
from longshore.server.store.transaction.reads import Reads
from longshore.server.store.transaction.writes import Writes


class Decisions:
    """The decisions of one transaction. `draw` is uniform in [0, 1)."""

    def __init__(
        self,
        reads: Reads,
        writes: Writes,
        *,
        policy: Policy,
        limits: ConcurrencyLimits,
        draw: Callable[[], float],
    ) -> None:
        self._reads = reads
        self._writes = writes
        self._counters = reads.counters
        self._event_log = writes.event_log
        self.policy = policy
        self.limits = limits
        self._draw = draw
        self._decider: Decider | None = None
        self._first: dict[tuple[float, bool, int], Status] = {}
        self._changes: list[TaskChange] = []
        self.last_seq: int | None = None
        """The last number that was given to a task. None means that this transaction has given none."""
        self.destination_keys: set[bytes] = set()
        """Destinations that a task has left, or in which a task waits for nothing else any more."""
        self.followed_ends: list[LoadedTask] = []
        """Tasks that have ended, and that others come after: see `followers`."""
        self.concurrency_keys: dict[str, set[str] | None] = {}
        """Maps the concurrency key of each instance whose ready tasks must be recomputed to the takers affected. None
        means all takers, because the free room of the instance changed."""
        self.ready_counts: dict[str, int] = {}
        """The number of ready tasks of an instance, by concurrency key, as far as it is known."""
        self.newly_ready: set[int] = set()
        """Tasks that have become ready and are not claimed yet."""
        self.claimable = False
        self.sessions_ended: list[str] = []

    # New tasks ----------------------------------------------------------------------------------------------------

    def new_seq(self) -> int:
        """Take the next number in the order of acceptance."""
        last = self.last_seq
        if last is None:
            last = self._reads.last_seq()
        self.last_seq = last + 1
        return self.last_seq

    def skip_seqs(self, by: int, *, least: int) -> int:
        """Leave out numbers, up to the next multiple of `by` and up to `least`, and return the last one given."""
        last = self.new_seq() - 1
        self.last_seq = max((last // by + 1) * by, least)
        return last

    def random_bits(self) -> int:
        """Draw 80 random bits."""
        return int(self._draw() * (1 << 40)) << 40 | int(self._draw() * (1 << 40))

    def first_status(self, *, not_before: float, free: bool, unmet: int) -> Status:
        """Return the first status of a task. `not_before` is in seconds from now. `free` means that no live task has
        its destination, and `unmet` counts the dependencies that have not ended.

        Tasks that begin alike share it: what follows from it is decided and written down once.
        """
        found = self._first.get((not_before, free, unmet))
        if found is None:
            found = first_status(now=self._reads.now, not_before=not_before, free=free, unmet=unmet)
            self._first[not_before, free, unmet] = found
        return found

    def add(self, submission: Submission, status: Status) -> LoadedTask:
        """Add a new task."""
        self._writes.count += 1
        loaded = LoadedTask(Task(submission, status), stored=False)
        self._reads.tasks.add(loaded)
        if loaded.destination_key is not None:
            self._reads.occupied.put(loaded.destination_key, True)
        if status.state is State.QUEUED:
            self._queue_changed(loaded, alone=status.alone)
        self._counters.step(loaded.counts, None, status)
        self._event_log.made(submission)
        self._record(loaded, None)
        return loaded

    # Events -------------------------------------------------------------------------------------------------------

    def apply(self, loaded: LoadedTask, event: Event) -> Decision:
        """Apply the event to the task. No other place changes a status."""
        decider = self._decider
        if decider is None:
            decider = self._decider = Decider(now=self._reads.now, policy=self.policy, draw=self._draw)
        decision = decider.decide(loaded, event)
        verdict = decision.verdict
        if verdict is Verdict.UNCHANGED or verdict is Verdict.STALE:
            return decision
        self._writes.count += 1
        before, after = loaded.status, decision.status
        submission = loaded.submission
        loaded.become(after)
        self._event_log.decided(submission, event, decision)
        self._counters.step(loaded.counts, before, after)
        self._note_room(loaded, before, after)
        if after.state.terminal and not before.state.terminal:
            self._event_log.ended(submission, after)
            if loaded.destination_key is not None:
                self.destination_keys.add(loaded.destination_key)
            if before.followed:
                self.followed_ends.append(loaded)
        elif before.unmet and not after.unmet and loaded.destination_key is not None:
            self.destination_keys.add(loaded.destination_key)
        if verdict is Verdict.CHANGED:
            self._record(loaded, (before.session_id, before.attempt) if before.session_id else None)
        return decision

    def _note_room(self, loaded: LoadedTask, before: Status, after: Status) -> None:
        if before.session_id and not after.session_id:
            self.concurrency_keys[loaded.concurrency_key] = None
            self.claimable = self.claimable or self._was_full(loaded.target)
        elif before.state is State.SETTLING and after.state is not State.SETTLING:
            # An exclusive task of its instance may have waited for its outcome.
            self.concurrency_keys[loaded.concurrency_key] = None
        elif loaded.submission.work.exclusive and after.state is not before.state:
            # It bars other tasks, whatever their takers, or does so no longer.
            self.concurrency_keys[loaded.concurrency_key] = None
        if before.state is State.QUEUED and after.state is not State.RUNNING:
            self._queue_changed(loaded, alone=before.alone)
        if after.state is State.QUEUED and before.state is not State.QUEUED:
            self._queue_changed(loaded, alone=after.alone)
        if after.state is State.SETTLING and not after.session_id:
            self.claimable = True

    def _was_full(self, target: str) -> bool:
        """Tell whether the target, which an attempt has just left, may have had no room before. Where its number of
        attempts is not known, it is not worth a read. Room on a worker needs no commit to be known."""
        key = (TARGET_RUNNING, target)
        return target != "" and (not self._counters.knows(key) or self._counters.value(key) + 1 >= self.limits.target)

    def _queue_changed(self, loaded: LoadedTask, *, alone: bool) -> None:
        """Note that the task has entered or left the queue of its instance."""
        if not loaded.concurrency_key:
            self.newly_ready.add(loaded.submission.seq)
            return
        takers = self.concurrency_keys.setdefault(loaded.concurrency_key, set())
        if takers is not None:
            takers.add(loaded.taker_when(alone=alone))

    def _record(self, loaded: LoadedTask, holder: tuple[str, int] | None) -> None:
        self._changes.append(TaskChange(loaded.task, holder))
        self._event_log.record(loaded.submission, loaded.status)

    # What follows -------------------------------------------------------------------------------------------------

    def room_in(self, concurrency_key: str) -> int:
        """Return how many more attempts the instance may run."""
        return max(0, self.limits.instance - self._counters.value((KEY_RUNNING, concurrency_key)))

    @property
    def moved_tasks(self) -> bool:
        """Tell whether a task has a new revision."""
        return bool(self._changes)

    def changes(self) -> Changes:
        """Return the changes to tell the engine after the commit."""
        return Changes(
            tasks=tuple(self._changes),
            claimable=self.claimable or bool(self.newly_ready),
            debts=self._event_log.makes_debts,
            sessions_ended=tuple(self.sessions_ended),
        )
