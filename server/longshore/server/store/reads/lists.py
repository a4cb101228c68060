"""This module finds a page of tasks by a filter, at the same cost however many tasks the database has.

Each part of a filter has an index whose entries are in the order of acceptance, so a page walks along one part's index,
newest first, and looks at the other parts of each task that it meets. The walk is along the part that the fewest tasks
fulfil, as far as a short look tells. It ends after LOOKED_AT tasks in any case: the page is then short, and says where
the next one goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Any, Final

import sqlalchemy as sa

from longshore.server.model.values import State
from longshore.server.store.protocol import TaskFilter, TaskPage
from longshore.server.store.sql.dialect import Dialect
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Among, Statement
from longshore.server.store.tables.ids import IdRange, id_ranges
from longshore.server.store.tables.rows import seq_in, task_columns, task_of
from longshore.server.store.tables.schema import (
    is_ended,
    is_listed,
    is_live,
    is_unsettled,
    labels,
    requests,
    submissions,
    tasks,
)

LOOKED_AT: Final = 10_000
"""Tasks that one page looks at, at most about so many."""
_FEW: Final = 1_000
"""A walk that has fewer tasks than these is taken at once, because it comes to its end within one page."""
_FIRST_STEP: Final = 64

_HELD: Final = frozenset({State.RUNNING, State.COMMITTING, State.CANCELLING, State.SETTLING})
_SORTED: Final[sa.ColumnElement[int]] = tasks.c.seq + sa.literal_column("0")
"""The number of a task for few tasks that are sorted: by the number itself, a database would walk along all tasks."""
_INLINED: Final = {"render_postcompile": True}
"""A statement for one use has its IN lists written out."""
_LIVE: Final = frozenset(state for state in State if not state.terminal)
_TASKS_AMONG: Final = Among(
    lambda keys: (
        sa.select(*task_columns())
        .join_from(tasks, submissions, tasks.c.seq == submissions.c.seq)
        .where(tasks.c.seq.in_(keys))
    )
)
_HEAVY: Final = (submissions.c.arguments, submissions.c.details, submissions.c.work, tasks.c.result, tasks.c.error)
_WEIGHT: Final[sa.ColumnElement[int]] = sum(
    (sa.func.coalesce(sa.func.length(column), 0) for column in _HEAVY),
    start=sa.literal_column("0"),
)
"""About how much a task takes beside its fixed fields. Neither database reads a large value to know its length."""


@dataclass(frozen=True, slots=True)
class Walk:
    """The tasks whose columns `key` have these values and that fulfil `more`, newest first: by an index on the columns
    and then `seq`, the number of a task there."""

    key: tuple[tuple[sa.Column[Any], Any], ...] = ()
    more: tuple[sa.ColumnElement[bool], ...] = ()
    seq: sa.ColumnElement[int] = tasks.c.seq
    source: sa.FromClause = tasks


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a filter: `walks` meet all tasks that fulfil the condition, and no others if they are `exact`."""

    condition: sa.ColumnElement[bool]
    walks: tuple[Walk, ...]
    exact: bool = True


def list_tasks(link: Link, where: TaskFilter, before: int | None, limit: int, most_bytes: int | None) -> TaskPage:
    """List tasks. They are weighed before they are read: a page of 1,000 jobs, each with 64 KiB of arguments and 64 KiB
    of result, has 128 MiB."""
    found: list[tuple[int, int]] = []
    resume: int | None = None
    room = LOOKED_AT
    for within in id_ranges(where.id_prefix) if where.id_prefix else (None,):
        search = _Search(link, where, within, before)
        found += search.find(limit + 1 - len(found), room)
        room -= search.looked_at
        resume = search.ended_at
        if len(found) > limit or resume is not None:
            break
    wanted: list[int] = []
    total = 0
    for seq, weight in found[:limit]:
        total += weight
        if wanted and most_bytes is not None and total > most_bytes:
            break
        wanted.append(seq)
    if len(found) > len(wanted):
        resume = wanted[-1]
    rows = {seq_in(row): task_of(row) for row in link.among(_TASKS_AMONG, wanted)}
    return TaskPage(tuple(rows[seq] for seq in wanted), resume)


class _Search:
    """The search for one page. `looked_at` counts the tasks that were met; `ended_at` is the number of the last one if
    the search ended before its walks did, else None."""

    def __init__(self, link: Link, where: TaskFilter, within: IdRange | None, before: int | None) -> None:
        self._link = link
        self._within = within
        self._before = before
        self.looked_at = 0
        self.ended_at: int | None = None
        parts = list(parts_of(where))
        chosen = self._choose(parts)
        self._walks = (Walk(),) if chosen is None else chosen.walks
        self._rest = [part.condition for part in parts if part is not chosen or not part.exact]
        if within is not None:
            self._rest.append(sa.func.substr(tasks.c.id, 1, len(within.prefix)) == within.prefix)
        self._rest += _of_time(where)

    def _choose(self, parts: Sequence[Part]) -> Part | None:
        """Return a part that few tasks fulfil, else the first one. None means that the filter has no parts."""
        for part in parts if len(parts) > 1 else ():
            rows = [self._link.row(counted(walk, self._within, self._before)) for walk in part.walks]
            if sum(row[0] for row in rows if row is not None) < _FEW:
                return part
        return parts[0] if parts else None

    def find(self, wanted: int, room: int) -> list[tuple[int, int]]:
        """Return the numbers and weights of the newest tasks that fulfil everything; `room`: tasks to look at."""
        found: list[tuple[int, int]] = []
        step = max(wanted, _FIRST_STEP) if self._rest else wanted
        while len(found) < wanted:
            met = [self._link.rows(weighed(walk, self._rest, self._within, self._before, step)) for walk in self._walks]
            # Below the number that a walk has reached, it may have tasks that are not known yet.
            reached = max((rows[-1][0] for rows in met if len(rows) == step), default=None)
            for seq, weight in merge(*met, key=lambda row: -row[0]):
                if reached is not None and seq < reached:
                    break
                self.looked_at += 1
                if weight is not None:
                    found.append((seq, weight))
            if reached is None:
                break
            self._before = reached
            if self.looked_at >= room:
                self.ended_at = reached
                break
            step = min(2 * step, LOOKED_AT)
        return found[:wanted]


def _bounded(walk: Walk, within: IdRange | None, before: int | None, *, ranges: bool) -> list[sa.ColumnElement[bool]]:
    """Build the conditions of a walk. `ranges` says the same by comparing rows: see `weighed`."""
    least = None if within is None else within.first
    beyond = min((one for one in (before, None if within is None else within.beyond) if one is not None), default=None)
    if not ranges or not walk.key:
        conditions = [*(column == value for column, value in walk.key), *walk.more]
        if beyond is not None:
            conditions.append(walk.seq < beyond)
        if least is not None:
            conditions.append(walk.seq >= least)
        return conditions
    key = [column for column, _ in walk.key]
    values = [sa.bindparam(None, value, type_=column.type) for column, value in walk.key]
    entry = sa.tuple_(*key, walk.seq)

    def at(seq: int) -> sa.ColumnElement[Any]:
        return sa.tuple_(*values, sa.bindparam(None, seq, type_=sa.BigInteger))

    return [
        sa.tuple_(*key) <= sa.tuple_(*values) if beyond is None else entry < at(beyond),
        sa.tuple_(*key) >= sa.tuple_(*values) if least is None else entry >= at(least),
        *walk.more,
    ]


def counted(walk: Walk, within: IdRange | None, before: int | None) -> Statement:
    """Select how many tasks a walk has, as far as a short look tells."""

    def made(dialect: Dialect) -> sa.Select[Any]:
        conditions = _bounded(walk, within, before, ranges=dialect.shared)
        few = sa.select(walk.seq.label("seq")).select_from(walk.source).where(*conditions).limit(_FEW)
        return sa.select(sa.func.count()).select_from(few.subquery("few"))

    return Statement(made, options=_INLINED)


def weighed(
    walk: Walk, rest: Sequence[sa.ColumnElement[bool]], within: IdRange | None, before: int | None, step: int
) -> Statement:
    """Select the next tasks of a walk, each with its weight, or NULL if it does not fulfil the rest of the filter.

    PostgreSQL would walk along the numbers of all tasks where it holds that many fulfil the key. So there the key is a
    range and a part of the order, which only the key's own index has.
    """
    weight = sa.select(_WEIGHT).where(submissions.c.seq == tasks.c.seq).correlate(tasks).scalar_subquery()
    answer = sa.case((sa.and_(*rest), weight)) if rest else weight

    def made(dialect: Dialect) -> sa.Select[Any]:
        order = [column.desc() for column, _ in walk.key] if dialect.shared else []
        return (
            sa.select(walk.seq.label("number"), answer.label("weight"))
            .select_from(walk.source)
            .where(*_bounded(walk, within, before, ranges=dialect.shared))
            .order_by(*order, walk.seq.desc())
            .limit(step)
        )

    return Statement(made, options=_INLINED)


# The parts of a filter -----------------------------------------------------------------------------------------------


def parts_of(where: TaskFilter) -> Iterator[Part]:
    """Yield the parts that an index helps with, in the order in which a walk along one is preferred."""
    if where.request_id:
        of_request = tasks.c.seq.in_(_of_request(where.request_id))
        yield Part(of_request, (Walk(more=(of_request,), seq=_SORTED),))
    if where.instance:
        yield _alike(tasks.c.instance, where.instance, tasks.c.instance != sa.literal_column("''"))
    for name, value in (where.labels or {}).items():
        yield _labelled(name, value)
    if where.states:
        yield _in_states(where.states)
    if where.creator:
        yield _alike(tasks.c.creator, where.creator)
    if where.queue:
        in_queue = ((tasks.c.queue, where.queue),)
        yield Part(tasks.c.queue == where.queue, (Walk(in_queue, (is_live,)), Walk(in_queue, (is_ended,))))
    if where.target:
        yield _alike(tasks.c.target, where.target)
    if where.kinds:
        kinds = sorted(where.kinds)
        yield Part(tasks.c.kind.in_(kinds), tuple(Walk(((tasks.c.kind, kind),)) for kind in kinds))


def _alike(column: sa.Column[Any], value: str, *more: sa.ColumnElement[bool]) -> Part:
    """Make a part whose one walk is along a column."""
    return Part(column == value, (Walk(((column, value),), more),))


def _labelled(name: str, value: str) -> Part:
    has_it = (labels.c.name == name, labels.c.value == value, labels.c.seq == tasks.c.seq)
    source = sa.join(labels, tasks, tasks.c.seq == labels.c.seq)
    walk = Walk(((labels.c.name, name), (labels.c.value, value)), (), labels.c.seq, source)
    return Part(_of_task(labels.c.seq, *has_it).is_not(None), (walk,))


def _of_task(column: sa.ColumnElement[Any], *conditions: sa.ColumnElement[bool]) -> sa.ScalarSelect[Any]:
    """Select from the rows of the one task that is looked at. For an EXISTS, PostgreSQL may read the whole table."""
    return sa.select(column).where(*conditions).correlate(tasks).scalar_subquery()


def _in_states(states: frozenset[State]) -> Part:
    """Ended tasks have an index with their state, and live ones an index for all of them. What sessions hold, or held
    and must be settled, is so little that it is sorted."""
    live = {state for state in states if not state.terminal}
    walks: list[Walk] = []
    if live - _HELD:
        walks.append(Walk(more=(is_live, is_listed)))
    elif live:
        walks.append(Walk(more=(tasks.c.session_id.is_not(None),), seq=_SORTED))
        if State.SETTLING in live:
            walks.append(Walk(more=(is_unsettled,), seq=_SORTED))
    walks += [Walk(((tasks.c.state, state.value),), (is_ended,)) for state in sorted(states - live)]
    condition = tasks.c.state.in_(sorted(state.value for state in states))
    return Part(condition, tuple(walks), exact=not live or live >= _LIVE)


def _of_time(where: TaskFilter) -> list[sa.ColumnElement[bool]]:
    """Build the conditions of time, which no index helps with: the clock may have been set back."""
    created = _of_task(submissions.c.created_at, submissions.c.seq == tasks.c.seq)
    conditions = []
    if where.created_after is not None:
        conditions.append(created >= where.created_after)
    if where.created_before is not None:
        conditions.append(created < where.created_before)
    return conditions


def _of_request(request_id: str) -> sa.CompoundSelect[Any]:
    """Select the tasks of a request by their `batch`, and those that have none, because they were made before schema
    0004, by the numbers that the request notes. Each is an index search."""
    noted = sa.and_(tasks.c.seq >= requests.c.first_seq, tasks.c.seq < requests.c.first_seq + requests.c.count)
    by_number = (
        sa.select(tasks.c.seq)
        .join_from(requests, tasks, noted)
        .where(requests.c.request_id == request_id, tasks.c.batch.is_(None))
    )
    return sa.union_all(
        sa.select(tasks.c.seq).where(tasks.c.batch == request_id).correlate(None), by_number.correlate(None)
    )
