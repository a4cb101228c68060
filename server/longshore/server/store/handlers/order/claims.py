"""Claims give ready tasks to sessions that have room.

The cost is bounded by the room that is offered, the targets and the kinds: claims read ready tasks only, through an
index that begins with target and kind, and never more of them than could be taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from longshore.contract.version import REVISION
from longshore.server.model.events import Claimed, Verdict
from longshore.server.model.sharing import Shares
from longshore.server.model.task import BUILT_IN, Session
from longshore.server.model.values import State
from longshore.server.store.commands import Claims, ClaimTasks, Offer
from longshore.server.store.handlers.order.ready import trim_ready
from longshore.server.store.handlers.sessions import session_at
from longshore.server.store.sql.statement import Each, Given
from longshore.server.store.tables.rows import Row, taker_of, task_columns
from longshore.server.store.tables.schema import counters, is_ready, is_unsettled, submissions, tasks
from longshore.server.store.transaction.counters import KEY_RUNNING, NEWER_QUEUED, TARGET_RUNNING
from longshore.server.store.transaction.loaded_tasks import LoadedTask
from longshore.server.store.transaction.reads import Reads
from longshore.server.store.transaction.registry import handles
from longshore.server.store.transaction.unit import UnitOfWork


def _ready(given: Given, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    return (
        sa.select(*columns)
        .where(is_ready, tasks.c.target == given["target"], tasks.c.taker == given["taker"])
        .order_by(tasks.c.priority.desc(), tasks.c.seq)
        .limit(given["most"])
    )


def _unsettled(given: Given, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    return (
        sa.select(*columns)
        .where(
            is_unsettled,
            tasks.c.target == given["target"],
            tasks.c.kind == given["kind"],
            tasks.c.due_at <= given["now"],
        )
        .order_by(tasks.c.due_at, tasks.c.seq)
        .limit(given["most"])
    )


_among = tasks.alias("among")


def _whole(make: Callable[..., sa.Select[Any]], given: Given) -> sa.Select[Any]:
    """Select with each number the columns that the round needs: the task, and how many run and are ready on its
    instance."""
    running = sa.select(counters.c.value).where(
        counters.c.scope == sa.literal_column(f"'{KEY_RUNNING}'"), counters.c.name == tasks.c.concurrency_key
    )
    ready: sa.Select[Any] = sa.select(sa.func.count()).where(
        _among.c.concurrency_key == tasks.c.concurrency_key, _among.c.ready.is_(sa.true())
    )
    # Tasks without an instance are all ready at once, and a hundred thousand of them may wait: they are not counted.
    nowhere = tasks.c.concurrency_key == sa.literal_column("''")
    among = sa.case((nowhere, sa.literal_column("0")), else_=ready.scalar_subquery())
    columns = (*task_columns(), running.scalar_subquery().label("running"), among.label("among"))
    return make(given, *columns).join_from(tasks, submissions, tasks.c.seq == submissions.c.seq)


_READY_TYPES: Final = {"target": sa.Text, "taker": sa.Text, "most": sa.Integer}
_UNSETTLED_TYPES: Final = {"target": sa.Text, "kind": sa.Text, "now": sa.Double, "most": sa.Integer}
_READY: Final = Each(lambda given: _ready(given, tasks.c.seq), _READY_TYPES, lock="claim")
_READY_WHOLE: Final = Each(lambda given: _whole(_ready, given), _READY_TYPES, lock="claim")
_UNSETTLED: Final = Each(lambda given: _unsettled(given, tasks.c.seq), _UNSETTLED_TYPES, lock="claim")
_UNSETTLED_WHOLE: Final = Each(lambda given: _whole(_unsettled, given), _UNSETTLED_TYPES, lock="claim")


@dataclass(slots=True)
class _Taker:
    """A session with room."""

    session: Session
    shares: Shares
    idle: bool
    claimed: Claimed
    """This event happens to each task that the session takes."""
    revision: int
    """The revision of the contract that its worker knows."""

    def serves(self, target: str, kind: str, revision: int) -> bool:
        return (
            kind in self.session.kinds and (not target or target in self.session.targets) and revision <= self.revision
        )

    def settles(self, target: str, kind: str, revision: int) -> bool:
        return self.serves(target, kind, revision) and (kind in BUILT_IN or bool(self.session.kinds[kind]))


_Candidate = tuple[int, int, LoadedTask]
"""(urgency, seq, task): sorts by priority, highest first, then by acceptance. No two have the same number."""

Pair = tuple[str, str]
"""(target, kind)"""


class _Round:
    """Carries out one ClaimTasks."""

    def __init__(self, unit: UnitOfWork, command: ClaimTasks) -> None:
        self._memory = unit.memory
        self._reads = unit.reads
        self._decisions = unit.decisions
        self._unit = unit
        # A task that an earlier claim of this transaction took must be found with its session, not as a ready task.
        unit.writes.flush_stored()
        self._takers = self._able(command.offers)
        self._taken: list[tuple[str, LoadedTask]] = []
        self._full: set[str] = set()
        """The concurrency keys of instances without room for a task that was ready there."""
        self._solo_waiting: set[str] = set()
        self._serving_pair: dict[tuple[str, str, int], list[_Taker]] = {}
        # Few tasks need more than any worker knows, and where none waits nothing is asked for them.
        newer = any(taker.revision for taker in self._takers) and self._reads.counters.value(NEWER_QUEUED)
        self._revisions = (0, REVISION) if newer else (0,)

    def run(self) -> tuple[list[tuple[str, LoadedTask]], tuple[str, ...]]:
        """Give out settlings first: an outcome is unknown until then. Tasks that run alone follow, then the rest."""
        pairs = list(self._pairs())
        unsettled = self._ask_unsettled(pairs)
        alone = self._ask_ready(pairs, alone=True)
        rest = self._ask_ready(pairs, alone=False)
        self._settle(unsettled())
        self._run_alone(alone())
        self._run_rest(rest())
        crowded = self._crowded()
        if crowded:
            self._unit.writes.flush_stored()
            trim_ready(self._unit, crowded)
        return self._taken, tuple(sorted(self._solo_waiting))

    def _crowded(self) -> list[str]:
        """Return concurrency keys with perhaps more ready tasks than room. A settling takes room, but no ready task."""
        counts, room_in = self._decisions.ready_counts, self._decisions.room_in
        keys = {loaded.concurrency_key for _, loaded in self._taken if loaded.concurrency_key}
        return sorted(self._full | {key for key in keys if key not in counts or counts[key] > room_in(key)})

    def _able(self, offers: Sequence[Offer]) -> list[_Taker]:
        """Return the sessions that may take something."""
        reads = self._reads
        sessions = [
            (offer, session)
            for offer in offers
            if (session := session_at(reads, offer.session_id, offer.epoch)) is not None
            and not session.draining
            and offer.room >= 1
        ]
        for _, session in sessions:
            self._memory.claims_for(session)
        targets = [(TARGET_RUNNING, target) for _, session in sessions for target in session.targets]
        reads.counters.ask([*targets, NEWER_QUEUED])
        held = self._held({session.id for _, session in sessions})
        return [
            _Taker(
                session,
                Shares(room=offer.room, kept_for=offer.kept_for),
                offer.idle and not held[session.id],
                Claimed(session.id, session.worker, reads.ticks, offer.begins),
                offer.revision,
            )
            for offer, session in sessions
            if not any(alone and state != State.SETTLING for state, alone in held[session.id])
        ]

    def _held(self, session_ids: Set[str]) -> dict[str, list[tuple[int, bool]]]:
        """Return the state of each attempt that these sessions hold, and whether it runs alone. What is stored was
        asked for with the sessions; what this transaction has changed since is in its working set."""
        reads = self._reads
        loaded_tasks = {loaded.submission.seq: loaded.status for loaded in reads.tasks.all()}
        held = {
            each: [(state, alone) for seq, state, alone in reads.stored_attempts.get(each) if seq not in loaded_tasks]
            for each in session_ids
        }
        for status in loaded_tasks.values():
            if status.session_id in held:
                held[status.session_id].append((status.state, status.alone))
        return held

    # Candidates ---------------------------------------------------------------------------------------------------

    def _pairs(self) -> Iterator[Pair]:
        """Yield each (target, kind) that a session with room serves. An empty target stands for a job without one."""
        pairs: set[Pair] = set()
        for taker in self._takers:
            if taker.shares.room < 1:
                continue
            for kind in taker.session.kinds:
                pairs.update((target, kind) for target in taker.session.targets)
                if kind not in BUILT_IN:
                    pairs.add(("", kind))
        yield from sorted(pairs)

    def _room_on(self, target: str) -> int:
        """Return how many more attempts the target may run."""
        if not target:
            return sum([taker.shares.room for taker in self._takers])
        return max(0, self._decisions.limits.target - self._reads.counters.value((TARGET_RUNNING, target)))

    def _room_for(self, target: str, kind: str, revision: int, *, alone: bool) -> int:
        """Return how many attempts the takers could take. A task that runs alone needs an idle session, whatever its
        share."""
        serving = [taker.shares for taker in self._takers if taker.serves(target, kind, revision)]
        return sum(shares.room if alone else shares.of(target) for shares in serving)

    def _ask_ready(self, pairs: list[Pair], *, alone: bool) -> Callable[[], list[_Candidate]]:
        """Ask for ready tasks of each pair, at most as many as could be taken."""
        sets = []
        for target, kind in pairs:
            for revision in self._revisions:
                most = min(self._room_for(target, kind, revision, alone=alone), self._room_on(target))
                if most >= 1:
                    sets.append((target, taker_of(kind, alone=alone, revision=revision), most))
        found = self._ask(_READY, _READY_WHOLE, sets)

        def answer() -> list[_Candidate]:
            # A new task has no crash behind it yet, after which it would run alone.
            new_tasks = {} if alone else self._new_and_ready()
            candidates: list[_Candidate] = []
            for (target, taker, most), loaded_tasks in zip(sets, found(), strict=True):
                found_here = [
                    (-loaded.submission.terms.priority, loaded.submission.seq, loaded)
                    for loaded in (*loaded_tasks, *new_tasks.get((target, taker), ()))
                ]
                found_here.sort()
                candidates += found_here[:most]
            candidates.sort()
            return candidates

        return answer

    def _new_and_ready(self) -> dict[Pair, list[LoadedTask]]:
        """Return ready tasks that the database does not know yet, by target and taker."""
        new_tasks = self._reads.tasks.new
        paused = self._reads.paused if new_tasks else frozenset()
        found: dict[Pair, list[LoadedTask]] = {}
        for loaded in new_tasks:
            if loaded.status.state is State.QUEUED and (
                loaded.ready if loaded.concurrency_key else loaded.submission.terms.queue not in paused
            ):
                found.setdefault((loaded.target, loaded.taker), []).append(loaded)
        return found

    def _ask_unsettled(self, pairs: list[Pair]) -> Callable[[], list[tuple[Pair, list[LoadedTask]]]]:
        sets = []
        asked = []
        for target, kind in pairs:
            takers = [taker for taker in self._takers if taker.settles(target, kind, 0)]
            most = min(sum(taker.shares.of(target) for taker in takers), self._room_on(target))
            if most >= 1:
                asked.append((target, kind))
                sets.append((target, kind, self._reads.now, most))
        found = self._ask(_UNSETTLED, _UNSETTLED_WHOLE, sets)
        return lambda: list(zip(asked, found(), strict=True))

    def _ask(self, numbers: Each, whole: Each, sets: list[Row]) -> Callable[[], list[list[LoadedTask]]]:
        """Ask for the tasks of each of `sets`: by number where tasks are remembered, else with all their columns."""
        known = self._reads.tasks
        found = self._reads.link.ask_each(numbers if known.remembered else whole, sets)

        def answer() -> list[list[LoadedTask]]:
            rows = found()
            if known.remembered:
                return [known.load(row[0] for row in each) for each in rows]
            return [known.load([self._learn(row) for row in each]) for each in rows]

        return answer

    def _learn(self, row: Row) -> int:
        """Take over the answer of `_whole` for a task, and return its number."""
        *task, running, ready = row
        loaded = self._reads.tasks.load_row(tuple(task))
        if loaded.concurrency_key:
            self._reads.counters.learn((KEY_RUNNING, loaded.concurrency_key), running)
            self._decisions.ready_counts.setdefault(loaded.concurrency_key, ready)
        return loaded.submission.seq

    # Taking -------------------------------------------------------------------------------------------------------

    def _settle(self, unsettled: list[tuple[Pair, list[LoadedTask]]]) -> None:
        for (target, kind), loaded_tasks in unsettled:
            for loaded in loaded_tasks:
                if self._room_on(target) > 0:
                    revision = loaded.submission.work.needs_revision
                    takers = [taker for taker in self._takers if taker.settles(target, kind, revision)]
                    self._give(self._roomiest(takers, target), loaded)

    def _run_alone(self, candidates: list[_Candidate]) -> None:
        self._ask_running(candidates)
        for _, _, loaded in candidates:
            if not self._has_room(loaded):
                continue
            serving = self._serving(loaded)
            idle = [taker for taker in serving if taker.idle and taker.shares.room > 0]
            if idle:
                self._give(idle[0], loaded)
                idle[0].shares.room = 0
            else:
                self._solo_waiting.update(taker.session.id for taker in serving)

    def _run_rest(self, candidates: list[_Candidate]) -> None:
        self._ask_running(candidates)
        for _, _, loaded in candidates:
            if self._has_room(loaded):
                self._give(self._roomiest(self._serving(loaded), loaded.target), loaded)
            else:
                # The task stood in the way of others, and no longer does so after this claim: see `trim_ready`.
                self._decisions.claimable = True
                if loaded.concurrency_key and not self._decisions.room_in(loaded.concurrency_key):
                    self._full.add(loaded.concurrency_key)

    def _serving(self, loaded: LoadedTask) -> list[_Taker]:
        """Return the takers that could run the task."""
        work = loaded.submission.work
        wanted = (loaded.target, work.kind, work.needs_revision)
        found = self._serving_pair.get(wanted)
        if found is None:
            found = self._serving_pair[wanted] = [taker for taker in self._takers if taker.serves(*wanted)]
        return found

    def _ask_running(self, candidates: list[_Candidate]) -> None:
        keys = {loaded.concurrency_key for _, _, loaded in candidates}
        self._reads.counters.ask((KEY_RUNNING, key) for key in keys if key)

    def _has_room(self, loaded: LoadedTask) -> bool:
        """Tell whether the task's target and instance have room for an attempt. Claims of this round count already."""
        key = loaded.concurrency_key
        return self._room_on(loaded.target) > 0 and (not key or self._decisions.room_in(key) > 0)

    def _roomiest(self, takers: list[_Taker], target: str) -> _Taker | None:
        """Choose the taker with the most room, so that work is spread. None means that no taker has a share left."""
        roomiest = None
        for taker in takers:
            if taker.shares.of(target) > 0 and (roomiest is None or taker.shares.room > roomiest.shares.room):
                roomiest = taker
        return roomiest

    def _give(self, taker: _Taker | None, loaded: LoadedTask) -> None:
        if taker is None:
            return
        session = taker.session
        was_ready = loaded.status.state is State.QUEUED
        decision = self._decisions.apply(loaded, taker.claimed)
        if decision.verdict is not Verdict.CHANGED:
            raise AssertionError(f"a {loaded.status.state.name} task was offered for a claim")
        self._decisions.newly_ready.discard(loaded.submission.seq)
        if was_ready and loaded.concurrency_key in self._decisions.ready_counts:
            self._decisions.ready_counts[loaded.concurrency_key] -= 1
        taker.shares.take(loaded.target)
        taker.idle = False
        self._taken.append((session.id, loaded))


def _want(reads: Reads, command: ClaimTasks) -> None:
    for offer in command.offers:
        reads.sessions.wanted.add(offer.session_id)
        reads.stored_attempts.wanted.add(offer.session_id)
        reads.counters.wanted.update((TARGET_RUNNING, target) for target in offer.targets)
    reads.counters.wanted.add(NEWER_QUEUED)


@handles(ClaimTasks, prefetch=_want, keeps_memory=True, last=True)
def claim_tasks(unit: UnitOfWork, command: ClaimTasks) -> Callable[[], Claims]:
    """See ClaimTasks. This handler runs last in a batch, when everything else is decided and written."""
    taken, solo_waiting = _Round(unit, command).run()
    return lambda: Claims(tuple((session_id, loaded.task) for session_id, loaded in taken), solo_waiting)
