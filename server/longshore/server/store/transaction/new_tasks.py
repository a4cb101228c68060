"""Makes new tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from longshore.server.model.events import SupersededBy
from longshore.server.model.task import Payload, Submission, concurrency_key_of
from longshore.server.store.commands import TaskPlan
from longshore.server.store.sql.statement import statement
from longshore.server.store.tables.ids import seq_of, task_id
from longshore.server.store.tables.schema import is_live, tasks
from longshore.server.store.transaction.counters import EXCLUSIVE, KEY_RUNNING
from longshore.server.store.transaction.loaded_tasks import LoadedTask, LoadedTasks
from longshore.server.store.transaction.reads import Reads
from longshore.server.store.transaction.unit import UnitOfWork


def want_plans(reads: Reads, plans: Sequence[TaskPlan]) -> None:
    """Name the rows that `make_tasks`, and what follows from new tasks, will need."""
    reads.makes_tasks = True
    for plan in plans:
        if (destination := plan.work.destination_key) is not None:
            reads.occupied.wanted.add(destination)
        for dependency in plan.terms.after:
            reads.tasks.want(dependency)
        if key := concurrency_key_of(plan.work):
            reads.counters.wanted.update(((KEY_RUNNING, key), EXCLUSIVE))


_LIVE_AT: Final = statement(
    sa.select(tasks.c.seq, tasks.c.creator).where(tasks.c.destination_key == sa.bindparam("key"), is_live)
)
"""Finds the live tasks of a destination or key. With the creator as a condition SQLite would search among all of the
creator's tasks."""
_FARTHEST: Final = 2_000
"""The most dependencies that a task looks at before it takes the place of others."""


def _supersede(unit: UnitOfWork, key: bytes, by: Submission) -> None:
    """Let a new task take the place of the earlier live ones of its creator for the same destination or key, except for
    those that it comes after, be it by way of others: it would end with them."""
    known = unit.reads.tasks
    seqs = {seq for seq, creator in unit.reads.link.rows(_LIVE_AT, key=key) if creator == by.creator}
    seqs |= {
        loaded.submission.seq
        for loaded in known.new
        if loaded.destination_key == key and loaded.submission.creator == by.creator
    }
    event = SupersededBy(by.id, unit.reads.ticks)
    found = known.load(seqs)
    if by.terms.after:
        found = [loaded for loaded in found if loaded.submission.id not in by.terms.after]
        followed = {loaded.submission.seq for loaded in found if loaded.status.followed}
        kept = _come_before(known, by.terms.after, followed)
        found = [loaded for loaded in found if loaded.submission.seq not in kept]
    for loaded in found:
        unit.decisions.apply(loaded, event)


def _come_before(known: LoadedTasks, after: Sequence[str], among: set[int]) -> set[int]:
    """Return those of the tasks `among` that a task comes after which names `after`, be it by way of other live tasks.

    A walk that gets longer than `_FARTHEST` gives up, and returns them all: they keep their turn, which is safe.
    """
    seen: set[int] = set()
    steps, level = 0, after
    while level and not among <= seen:
        steps += len(level)
        if steps > _FARTHEST:
            return among
        # A task comes after earlier ones only, so those before all of `among` lead nowhere.
        numbers = {seq for each in level if (seq := seq_of(each)) is not None and seq >= min(among)} - seen
        seen |= numbers
        level = [
            each
            for loaded in known.load(numbers)
            if not loaded.status.state.terminal
            for each in loaded.submission.terms.after
        ]
    return among & seen


def _fails(unmet: Sequence[tuple[int, LoadedTask | None]]) -> bool:
    """Tell whether a new task ends at once, because one that it comes after has not ended as it must. It takes no
    place: the earlier task would be lost for nothing."""
    return any(loaded is None or loaded.status.state.terminal for _, loaded in unmet)


def make_tasks(
    unit: UnitOfWork,
    plans: Sequence[TaskPlan],
    *,
    creator: str,
    request_id: str,
    payload: Payload | None,
    retry_of: str = "",
    retried_by: str = "",
) -> list[LoadedTask]:
    """Make one task for each plan, in their order. One that comes after a task that ended otherwise than it must is
    ended at the end of the batch."""
    decisions, occupied, now = unit.decisions, unit.reads.occupied, unit.reads.now
    made = []
    for plan in plans:
        seq = decisions.new_seq()
        submission = Submission(
            seq=seq,
            id=task_id(seq, decisions.random_bits()),
            creator=creator,
            request_id=request_id,
            work=plan.work,
            terms=plan.terms,
            payload=payload,
            expires_at=now + plan.terms.expire_after,
            created_at=now,
            retry_of=retry_of,
            retried_by=retried_by,
        )
        key = plan.work.destination_key
        free = key is None or not occupied.get(key)
        unmet = unit.followers.unmet(plan.terms) if plan.terms.after else ()
        if key is not None and plan.work.latest_wins and not free and not _fails(unmet):
            _supersede(unit, key, submission)
        status = decisions.first_status(not_before=plan.not_before, free=free, unmet=len(unmet))
        loaded = decisions.add(submission, status)
        unit.followers.follow(loaded, unmet)
        made.append(loaded)
    return made
