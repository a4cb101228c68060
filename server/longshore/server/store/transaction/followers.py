"""Followers are tasks that come after other tasks, their dependencies.

A row of `dependencies` stands for each live task that a follower waits for, so that nothing is forgotten at a crash.
When the task ends, its followers hear of it, and the rows go: in the same transaction as many as `MOST`, and the rest
in transactions of their own. A task that nothing follows costs no search.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import sqlalchemy as sa

from longshore.server.model.errors import DependencyFailed, NotFound
from longshore.server.model.events import DependencyEnded, Followed
from longshore.server.model.states import ended_well
from longshore.server.model.task import Terms
from longshore.server.model.values import State
from longshore.server.store.sql.statement import Among, changing, inserting
from longshore.server.store.tables.ids import seq_of
from longshore.server.store.tables.schema import dependencies
from longshore.server.store.transaction.decisions import Decisions
from longshore.server.store.transaction.loaded_tasks import LoadedTask
from longshore.server.store.transaction.reads import Reads
from longshore.server.store.transaction.writes import Writes

MOST: Final = 500
"""Followers that one transaction tells of ends: leases wait behind each transaction, and thousands may follow one
task."""

_FOLLOWERS: Final = Among(
    lambda keys: (
        sa.select(dependencies.c.after_seq, dependencies.c.seq)
        .where(dependencies.c.after_seq.in_(keys))
        .order_by(dependencies.c.after_seq, dependencies.c.seq)
        .limit(sa.bindparam("most"))
    )
)
_INSERT: Final = inserting(dependencies)
_DROP: Final = changing(
    lambda given: dependencies.delete().where(
        dependencies.c.after_seq == given["after"], dependencies.c.seq == given["of_seq"]
    ),
    {"after": sa.BigInteger, "of_seq": sa.BigInteger},
)

_End = tuple[str, State | None]
"""(task id, state): how a task ended. None means that its history is removed."""


class Followers:
    """The dependencies that one transaction makes, and those whose tasks end in it."""

    def __init__(self, reads: Reads, writes: Writes, decisions: Decisions) -> None:
        self._reads = reads
        self._writes = writes
        self._decisions = decisions
        self._new: dict[int, list[int]] = {}
        """Followers that are not written yet, by the number of the task that they come after."""
        self._ended: dict[int, _End] = {}
        self.left: set[int] = set()
        """Ended tasks that have followers left, which another transaction tells."""

    # New followers ------------------------------------------------------------------------------------------------

    def check(self, terms: Terms, *, creator: str | None) -> None:
        """Check the dependencies of a new task. With `creator` None they may be anybody's. Raises NotFound,
        DependencyFailed."""
        for task_id in terms.after:
            found = self._reads.tasks.find(task_id)
            if found is None or (creator is not None and found.submission.creator != creator):
                raise NotFound(
                    f"There is no task {task_id!r} of yours to come after, or its history is removed.", task_id=task_id
                )
            state = found.status.state
            if state.terminal and not ended_well(state, any_end=terms.after_any_end):
                raise DependencyFailed(
                    f"The task {task_id} is {state.name}, so that no task can come after its success: name another "
                    "one, or set `after_any_end`.",
                    task_id=task_id,
                    state=state.name,
                )

    def live(self, task_ids: Iterable[str]) -> tuple[str, ...]:
        """Return those of the tasks that have not ended."""
        find = self._reads.tasks.find
        return tuple(
            task_id for task_id in task_ids if (found := find(task_id)) is not None and not found.status.state.terminal
        )

    def unmet(self, terms: Terms) -> Sequence[tuple[int, LoadedTask | None]]:
        """Return the dependencies that a new task has to hear of: those that live, and those that ended otherwise than
        they must. None means that the history is removed."""
        found: list[tuple[int, LoadedTask | None]] = []
        for task_id in terms.after:
            loaded = self._reads.tasks.find(task_id)
            state = None if loaded is None else loaded.status.state
            if (state is not None and not state.terminal) or not ended_well(state, any_end=terms.after_any_end):
                found.append((seq_of(task_id) or 0, loaded))
        return found

    def follow(self, follower: LoadedTask, unmet: Sequence[tuple[int, LoadedTask | None]]) -> None:
        """Let a new task come after these. It hears of those that have ended in this transaction."""
        for seq, loaded in unmet:
            self._new.setdefault(seq, []).append(follower.submission.seq)
            if loaded is not None and not loaded.status.state.terminal:
                self._decisions.apply(loaded, Followed())
            else:
                self.has_ended(seq, loaded)

    # Ends ---------------------------------------------------------------------------------------------------------

    def has_ended(self, seq: int, loaded: LoadedTask | None) -> None:
        """Note a task that has ended before, and whose followers are to hear of it."""
        self._ended[seq] = ("", None) if loaded is None else (loaded.submission.id, loaded.status.state)

    def release(self) -> None:
        """Tell followers of the tasks that have ended. A follower that ends has followers in its turn."""
        ends = self._decisions.followed_ends
        told = 0
        while ends or self._ended:
            for loaded in ends:
                self.has_ended(loaded.submission.seq, loaded)
            ends.clear()
            ended, self._ended = self._ended, {}
            if told >= MOST:
                self.left.update(ended)
            else:
                told += self._tell(ended, MOST - told)

    def _tell(self, ended: dict[int, _End], most: int) -> int:
        stored = [(row[0], row[1]) for row in self._reads.link.among(_FOLLOWERS, sorted(ended), most=most + 1)]
        new = [(after, seq) for after in ended for seq in self._new.get(after, ())]
        rows = sorted(stored + new)
        if len(rows) > most:
            rows = rows[:most]
            self.left.update(after for after in ended if after >= rows[-1][0])
        followers = {loaded.submission.seq: loaded for loaded in self._reads.tasks.load(seq for _, seq in rows)}
        for after, seq in rows:
            if (follower := followers.get(seq)) is not None:
                task_id, state = ended[after]
                task_id = task_id or next(
                    (each for each in follower.submission.terms.after if seq_of(each) == after), ""
                )
                self._decisions.apply(follower, DependencyEnded(task_id, state))
        self._drop(rows, set(new))
        return len(rows)

    def _drop(self, told: Sequence[tuple[int, int]], new: set[tuple[int, int]]) -> None:
        for after, seq in told:
            if (after, seq) in new:
                self._new[after].remove(seq)
        stored = [pair for pair in told if pair not in new]
        if stored:
            self._writes.many(_DROP, stored)

    def write(self) -> None:
        """Let the rows of new followers be written with the next flush, behind the tasks."""
        for after, seqs in self._new.items():
            for seq in seqs:
                self._writes.later(_INSERT, (after, seq), last=True)
        self._new.clear()
