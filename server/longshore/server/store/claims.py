"""Claiming: which ready task goes to which session.

The cost is bounded by the room that is offered, the targets and the kinds: claims read ready tasks only, through an
index that begins with target and kind, and never more of them than could be taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from longshore.server.model.states import Claimed, Verdict
from longshore.server.model.task import FILE_PUSH, Session
from longshore.server.model.values import State
from longshore.server.store.commands import Claims, ClaimTasks, Offer
from longshore.server.store.counters import TARGET_RUNNING
from longshore.server.store.fleet import session_at
from longshore.server.store.link import Statement, locking, statement
from longshore.server.store.schema import is_ready, is_unsettled, tasks
from longshore.server.store.unit import Entry, UnitOfWork

_READY_COLUMNS: Final = (tasks.c.seq, tasks.c.priority, tasks.c.target, tasks.c.kind)


def _ready(*, alone: bool) -> Statement:
    return locking(
        sa.select(*_READY_COLUMNS)
        .where(
            is_ready,
            tasks.c.target == sa.bindparam("target"),
            tasks.c.kind == sa.bindparam("kind"),
            tasks.c.alone.is_(sa.true() if alone else sa.false()),
        )
        .order_by(tasks.c.priority.desc(), tasks.c.seq)
        .limit(sa.bindparam("most"))
    )


_READY: Final = _ready(alone=False)
_READY_ALONE: Final = _ready(alone=True)
_UNSETTLED: Final = locking(
    sa.select(tasks.c.seq)
    .where(
        is_unsettled,
        tasks.c.target == sa.bindparam("target"),
        tasks.c.kind == sa.bindparam("kind"),
        tasks.c.due_at <= sa.bindparam("now"),
    )
    .order_by(tasks.c.due_at, tasks.c.seq)
    .limit(sa.bindparam("most"))
)
_HELD: Final = statement(
    sa.select(tasks.c.state, tasks.c.alone).where(tasks.c.session_id == sa.bindparam("session_id"))
)


@dataclass(slots=True)
class _Taker:
    """A session with room."""

    session: Session
    room: int
    idle: bool
    taken: int = 0

    def serves(self, target: str, kind: str) -> bool:
        return kind in self.session.kinds and (not target or target in self.session.targets)

    def settles(self, target: str, kind: str) -> bool:
        return self.serves(target, kind) and (kind == FILE_PUSH or bool(self.session.kinds[kind]))


@dataclass(frozen=True, slots=True, order=True)
class _Candidate:
    """Sorts by priority, highest first, then by acceptance."""

    urgency: int
    seq: int
    target: str
    kind: str


class _Round:
    """One ClaimTasks at work."""

    def __init__(self, unit: UnitOfWork, command: ClaimTasks) -> None:
        self._unit = unit
        self._takers = [taker for offer in command.offers if (taker := self._taker(offer)) is not None]
        self._rooms: dict[str, int] = {}
        self._taken: list[tuple[str, Entry]] = []
        self._solo_waiting: set[str] = set()

    def run(self) -> tuple[list[tuple[str, Entry]], tuple[str, ...]]:
        """Settling first: somebody's outcome is unknown until then. Then what must run alone, then the rest."""
        self._settle()
        self._run_alone()
        self._run_rest()
        self._unit.flush()
        return self._taken, tuple(sorted(self._solo_waiting))

    def _taker(self, offer: Offer) -> _Taker | None:
        session = session_at(self._unit, offer.session_id, offer.epoch)
        if session is None or session.draining or offer.room < 1:
            return None
        held = self._unit.link.rows(_HELD, session_id=session.id)
        if any(alone and state != State.SETTLING for state, alone in held):
            return None
        return _Taker(session, offer.room, offer.idle and not held)

    # Candidates ---------------------------------------------------------------------------------------------------

    def _pairs(self) -> Iterator[tuple[str, str]]:
        """(target, kind) that somebody with room serves; an empty target is a job without one."""
        pairs: set[tuple[str, str]] = set()
        for taker in self._takers:
            if taker.room < 1:
                continue
            for kind in taker.session.kinds:
                pairs.update((target, kind) for target in taker.session.targets)
                if kind != FILE_PUSH:
                    pairs.add(("", kind))
        yield from sorted(pairs)

    def _room_on(self, target: str) -> int:
        """How many more attempts the target may run."""
        if not target:
            return sum(taker.room for taker in self._takers)
        if target not in self._rooms:
            running = self._unit.ledger.value((TARGET_RUNNING, target))
            self._rooms[target] = max(0, self._unit.limits.target - running)
        return self._rooms[target]

    def _candidates(self, what: Statement) -> list[_Candidate]:
        wanted = sum(taker.room for taker in self._takers)
        found: list[_Candidate] = []
        for target, kind in self._pairs():
            most = min(wanted, self._room_on(target))
            if most < 1:
                continue
            for seq, priority, _, _ in self._unit.link.rows(what, target=target, kind=kind, most=most):
                found.append(_Candidate(-priority, seq, target, kind))
        return sorted(found)

    # Taking -------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        for target, kind in self._pairs():
            takers = [taker for taker in self._takers if taker.settles(target, kind)]
            most = min(sum(taker.room for taker in takers), self._room_on(target))
            if most < 1:
                continue
            rows = self._unit.link.rows(_UNSETTLED, target=target, kind=kind, now=self._unit.now, most=most)
            for entry in self._unit.load(row[0] for row in rows):
                self._give(self._roomiest(takers), entry)

    def _run_alone(self) -> None:
        for candidate in self._candidates(_READY_ALONE):
            serving = [taker for taker in self._takers if taker.serves(candidate.target, candidate.kind)]
            idle = [taker for taker in serving if taker.idle and taker.room > 0]
            if not idle:
                self._solo_waiting.update(taker.session.id for taker in serving)
            elif self._room_on(candidate.target) > 0:
                taker = idle[0]
                for entry in self._unit.load((candidate.seq,)):
                    self._give(taker, entry)
                taker.room = 0

    def _run_rest(self) -> None:
        candidates = self._candidates(_READY)
        entries = {entry.order.seq: entry for entry in self._unit.load(each.seq for each in candidates)}
        for candidate in candidates:
            if self._room_on(candidate.target) < 1:
                continue
            serving = [taker for taker in self._takers if taker.serves(candidate.target, candidate.kind)]
            self._give(self._roomiest(serving), entries[candidate.seq])

    def _roomiest(self, takers: list[_Taker]) -> _Taker | None:
        """Work is spread: the one with the most room next."""
        best = max(takers, key=lambda taker: taker.room, default=None)
        return best if best is not None and best.room > 0 else None

    def _give(self, taker: _Taker | None, entry: Entry) -> None:
        if taker is None:
            return
        session = taker.session
        target = entry.order.target
        room = self._room_on(target)
        decision = self._unit.apply(entry, Claimed(session.id, session.worker, self._unit.ticks))
        if decision.verdict is not Verdict.CHANGED:
            raise AssertionError(f"a {entry.status.state.name} task was offered for a claim")
        if target:
            self._rooms[target] = room - 1
        taker.room -= 1
        taker.idle = False
        taker.taken += 1
        self._taken.append((session.id, entry))


def claim_tasks(unit: UnitOfWork, command: ClaimTasks) -> Callable[[], Claims]:
    """See ClaimTasks. Runs last in a batch, when everything else is decided and written."""
    taken, solo_waiting = _Round(unit, command).run()
    return lambda: Claims(tuple((session_id, entry.task) for session_id, entry in taken), solo_waiting)
