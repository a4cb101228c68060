"""This module decides after a batch which task is the head of a destination, and which tasks of an instance are ready.

A concurrency key stands for one instance of one target. Of its QUEUED tasks only as many are `ready` as it has room,
the best first, counted for each kind of taker by itself; claims look at ready tasks alone, so that neither a long queue
nor a saturated instance makes a claim dearer.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any, Final

import sqlalchemy as sa

from longshore.server.model.events import BecameHead
from longshore.server.model.values import State
from longshore.server.store.handlers.order.exclusive import ExclusiveChoice, with_exclusive
from longshore.server.store.sql.statement import Each, Given, changing
from longshore.server.store.tables.rows import Row
from longshore.server.store.tables.schema import is_live, is_offered, is_ready, tasks
from longshore.server.store.transaction.counters import EXCLUSIVE, KEY_RUNNING
from longshore.server.store.transaction.decisions import Decisions
from longshore.server.store.transaction.loaded_tasks import LoadedTask, LoadedTasks
from longshore.server.store.transaction.reads import Reads
from longshore.server.store.transaction.unit import UnitOfWork

_FIRST: Final = Each(
    lambda given: (
        sa.select(tasks.c.seq, tasks.c.head)
        .where(tasks.c.destination_key == given["key"], is_live)
        .order_by(tasks.c.seq)
        .limit(sa.literal_column("1"))
    ),
    {"key": sa.LargeBinary},
)


def _takers(given: Given) -> sa.Select[Any]:
    """Select the kinds of takers that tasks of the instance wait for, by one seek in the index for each kind.

    The key is carried along, because what is given cannot be seen from inside; and a seek is the first of an order,
    because PostgreSQL reads all of a key for a minimum there.
    """

    def least(key: sa.ColumnElement[Any], *more: sa.ColumnElement[bool]) -> sa.ScalarSelect[Any]:
        found = sa.select(tasks.c.taker).where(tasks.c.concurrency_key == key, is_offered, *more)
        return found.order_by(tasks.c.taker).limit(sa.literal_column("1")).scalar_subquery()

    key = given["key"]
    found = sa.select(sa.cast(key, sa.Text).label("key"), least(key).label("taker")).cte(
        "takers", recursive=True, nesting=True
    )
    following = least(found.c.key, tasks.c.taker > found.c.taker)
    found = found.union_all(sa.select(found.c.key, following).where(found.c.taker.is_not(None)))
    return sa.select(found.c.taker).where(found.c.key == key, found.c.taker.is_not(None))


_TAKERS: Final = Each(_takers, {"key": sa.Text})
_BEST: Final = Each(
    lambda given: (
        sa.select(tasks.c.priority, tasks.c.seq, tasks.c.ready)
        .where(tasks.c.concurrency_key == given["key"], tasks.c.taker == given["taker"], is_offered)
        .order_by(tasks.c.priority.desc(), tasks.c.seq)
        .limit(given["room"])
    ),
    {"key": sa.Text, "taker": sa.Text, "room": sa.Integer},
)
_READY: Final = Each(
    lambda given: sa.select(tasks.c.seq, tasks.c.taker).where(tasks.c.concurrency_key == given["key"], is_ready),
    {"key": sa.Text},
)
_SET_READY: Final = changing(
    lambda given: tasks.update().where(tasks.c.seq == given["of_seq"]).values(ready=given["is_ready"]),
    {"of_seq": sa.BigInteger, "is_ready": sa.Boolean},
)


def update_heads_and_ready(unit: UnitOfWork) -> None:
    """Make tasks heads and ready, as follows from what the batch has decided and written: heads first, then instances.

    Instances are asked in the same round as the heads; those that a new head changes are asked again.
    """
    decisions = unit.decisions
    if not decisions.destination_keys and not any(decisions.concurrency_keys):
        decisions.concurrency_keys.clear()
        return
    keys = sorted(decisions.destination_keys)
    decisions.destination_keys.clear()
    first = unit.reads.link.ask_each(_FIRST, [(key,) for key in keys])
    early = _ReadyUpdate(unit, _changed(decisions))
    _promote(unit, _next_heads(unit.reads.tasks, keys, first()))
    again = {key: early.also(key, takers) for key, takers in _changed(decisions).items()}
    late = _ReadyUpdate(unit, again)
    early.decide(but=again)
    late.decide()
    _set_ready(unit, early.promoted + late.promoted, early.demoted + late.demoted)


def _next_heads(tasks: LoadedTasks, keys: list[bytes], first: list[list[Row]]) -> list[int]:
    """Find the next head of each destination: a stored task, else a new one, because new ones were accepted later."""
    seqs = [rows[0][0] for rows in first if rows and not rows[0][1]]
    wanted = {key for key, rows in zip(keys, first, strict=True) if not rows}
    for loaded in tasks.new if wanted else ():
        if loaded.destination_key in wanted and not loaded.status.state.terminal:
            wanted.discard(loaded.destination_key)
            if not loaded.status.head:
                seqs.append(loaded.submission.seq)
    return seqs


def _promote(unit: UnitOfWork, seqs: list[int]) -> None:
    """Make the earliest live task of each destination that was left its head."""
    for loaded in unit.reads.tasks.load(seqs):
        unit.decisions.apply(loaded, BecameHead())
    unit.writes.flush_stored()


def _changed(decisions: Decisions) -> dict[str, set[str] | None]:
    """Take the concurrency keys that have changed since the last call."""
    changed = sorted(decisions.concurrency_keys.items(), key=lambda item: item[0])
    keys = {key: takers for key, takers in changed if key}
    decisions.concurrency_keys.clear()
    return keys


def new_queued_tasks(reads: Reads, keys: Container[str]) -> dict[str, list[LoadedTask]]:
    """Return queued tasks of these instances that the database does not know yet, by concurrency key."""
    found: dict[str, list[LoadedTask]] = {}
    for loaded in reads.tasks.new:
        if (
            loaded.concurrency_key
            and loaded.concurrency_key in keys
            and loaded.status.state is State.QUEUED
            and not reads.is_paused(loaded.submission.terms.queue)
        ):
            found.setdefault(loaded.concurrency_key, []).append(loaded)
    return found


class _ReadyUpdate:
    """Finds the best QUEUED tasks of instances, as many as each has room for, which are to be ready, and no others.

    `promoted` and `demoted` are the tasks that have to change for that. Everything is asked at the beginning, as far as
    room and takers are known then.
    """

    def __init__(self, unit: UnitOfWork, keys: dict[str, set[str] | None]) -> None:
        self._reads = unit.reads
        self._decisions = unit.decisions
        self._keys = keys
        self.promoted: list[int] = []
        self.demoted: list[int] = []
        link, counters = self._reads.link, self._reads.counters
        known = {key for key in keys if counters.knows((KEY_RUNNING, key))}
        counters.ask([EXCLUSIVE, *((KEY_RUNNING, key) for key in keys)])
        self._open = [key for key, takers in keys.items() if takers is None]
        self._takers = link.ask_each(_TAKERS, [(key,) for key in self._open])
        self._ready = link.ask_each(_READY, [(key,) for key in keys])
        self._early = [(key, taker) for key in keys if key in known for taker in sorted(keys[key] or ())]
        self._best = self._ask_best(self._early)

    def also(self, key: str, takers: set[str] | None) -> set[str] | None:
        """Join these takers with those that the instance is asked about already."""
        if key not in self._keys:
            return takers
        before = self._keys[key]
        return None if takers is None or before is None else takers | before

    def _ask_best(self, pairs: list[tuple[str, str]]) -> Callable[[], list[list[Row]]]:
        room_in = self._decisions.room_in
        return self._reads.link.ask_each(_BEST, [(key, taker, room_in(key)) for key, taker in pairs])

    def decide(self, but: Container[str] = ()) -> None:
        """Fill `promoted` and `demoted`, without the keys of `but`."""
        keys, room_in = self._keys, self._decisions.room_in
        ready_counts: dict[str, int] = {}
        new_tasks = new_queued_tasks(self._reads, keys)
        waiting = {
            key: {row[0] for row in rows} | {loaded.taker for loaded in new_tasks.get(key, ())}
            for key, rows in zip(self._open, self._takers(), strict=True)
        }
        exclusive = self._beside_exclusive(but, new_tasks)
        keep = {seq for chosen in exclusive.values() for seq, _ in chosen}
        for key, chosen in exclusive.items():
            late_ones = [seq for seq, ready in chosen if not ready]
            self.promoted += late_ones
            ready_counts[key] = len(late_ones)
        early = set(self._early)
        pairs = [
            (key, taker)
            for key, takers in keys.items()
            if key not in but and key not in exclusive and room_in(key)
            for taker in sorted(waiting[key] if takers is None else takers)
            if (key, taker) not in early
        ]
        late = self._ask_best(pairs)
        for (key, taker), rows in zip([*self._early, *pairs], [*self._best(), *late()], strict=True):
            room = room_in(key)
            if key in but or key in exclusive or not room:
                continue
            best = [(-priority, seq, ready) for priority, seq, ready in rows]
            best += [
                (-loaded.submission.terms.priority, loaded.submission.seq, loaded.ready)
                for loaded in new_tasks.get(key, ())
                if loaded.taker == taker
            ]
            for _, seq, ready in sorted(best)[:room]:
                keep.add(seq)
                if not ready:
                    self.promoted.append(seq)
                    ready_counts[key] = ready_counts.get(key, 0) + 1
        for (key, takers), rows in zip(keys.items(), self._ready(), strict=True):
            if key in but:
                continue
            room = room_in(key)
            ready_now = [
                *rows,
                *((loaded.submission.seq, loaded.taker) for loaded in new_tasks.get(key, ()) if loaded.ready),
            ]
            demoted = [
                seq
                for seq, taker in ready_now
                if seq not in keep and (takers is None or not room or key in exclusive or taker in takers)
            ]
            self.demoted += demoted
            self._decisions.ready_counts[key] = ready_counts.get(key, 0) + len(ready_now) - len(demoted)

    def _beside_exclusive(
        self, but: Container[str], new_tasks: dict[str, list[LoadedTask]]
    ) -> dict[str, list[tuple[int, bool]]]:
        """Choose the ready tasks of instances with exclusive tasks, whatever takers have changed there."""
        keys = with_exclusive(self._reads, [key for key in self._keys if key not in but])
        if not keys:
            return {}
        takers = self._reads.link.ask_each(_TAKERS, [(key,) for key in keys])
        waiting = {key: {row[0] for row in rows} for key, rows in zip(keys, takers(), strict=True)}
        return ExclusiveChoice(self._reads, self._decisions, keys, new_tasks=new_tasks, takers=waiting).chosen


def trim_ready(unit: UnitOfWork, keys: Iterable[str]) -> None:
    """Choose the ready tasks anew, after claims, on instances where more tasks are ready than there is room left.

    Only an instance with several kinds of takers gets there; on others a claim takes as much from ready as from room.
    """
    decisions = unit.decisions
    unknown = [key for key in keys if key and key not in decisions.ready_counts]
    ready = unit.reads.link.ask_each(_READY, [(key,) for key in unknown])
    # For instances with new tasks the number is known already.
    decisions.ready_counts.update((key, len(rows)) for key, rows in zip(unknown, ready(), strict=True))
    for key in keys:
        if key and decisions.ready_counts[key] > decisions.room_in(key):
            decisions.concurrency_keys[key] = None
    refill = _ReadyUpdate(unit, _changed(decisions))
    refill.decide()
    _set_ready(unit, refill.promoted, refill.demoted)


def _set_ready(unit: UnitOfWork, promoted: list[int], demoted: list[int]) -> None:
    unit.decisions.newly_ready.update(promoted)
    unit.decisions.newly_ready.difference_update(demoted)
    ready = {loaded.submission.seq: loaded for loaded in unit.reads.tasks.new}
    values = [(seq, False) for seq in demoted] + [(seq, True) for seq in promoted]
    for seq, is_ready_now in values:
        if seq in ready:
            ready[seq].ready = is_ready_now
    unit.reads.link.write(_SET_READY, sorted(value for value in values if value[0] not in ready))
