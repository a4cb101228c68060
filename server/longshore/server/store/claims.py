"""Claiming: which ready task goes to which session.

The cost is bounded by the room that is offered, the targets and the kinds: claims read ready tasks only, through an
index that begins with target and kind, and never more of them than could be taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from longshore.server.model.events import Claimed, Verdict
from longshore.server.model.sharing import Shares
from longshore.server.model.task import FILE_PUSH, Session
from longshore.server.model.values import State
from longshore.server.store.commands import Claims, ClaimTasks, Offer
from longshore.server.store.counters import TARGET_RUNNING
from longshore.server.store.fleet import session_at
from longshore.server.store.link import claiming, statement
from longshore.server.store.promote import room_in, trim_lanes
from longshore.server.store.rows import taker_of
from longshore.server.store.schema import is_ready, is_unsettled, tasks
from longshore.server.store.unit import Entry, UnitOfWork

_READY: Final = claiming(
    sa.select(tasks.c.seq, tasks.c.priority)
    .where(is_ready, tasks.c.target == sa.bindparam("target"), tasks.c.taker == sa.bindparam("taker"))
    .order_by(tasks.c.priority.desc(), tasks.c.seq)
    .limit(sa.bindparam("most"))
)
_UNSETTLED: Final = claiming(
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
    shares: Shares
    idle: bool

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
        self._taken: list[tuple[str, Entry]] = []
        self._solo_waiting: set[str] = set()

    def run(self) -> tuple[list[tuple[str, Entry]], tuple[str, ...]]:
        """Settling first: somebody's outcome is unknown until then. Then what must run alone, then the rest."""
        self._settle()
        self._run_alone()
        self._run_rest()
        self._unit.flush()
        trim_lanes(self._unit, sorted({entry.lane for _, entry in self._taken}))
        return self._taken, tuple(sorted(self._solo_waiting))

    def _taker(self, offer: Offer) -> _Taker | None:
        session = session_at(self._unit, offer.session_id, offer.epoch)
        if session is None or session.draining or offer.room < 1:
            return None
        held = self._unit.link.rows(_HELD, session_id=session.id)
        if any(alone and state != State.SETTLING for state, alone in held):
            return None
        return _Taker(session, Shares(room=offer.room, kept_for=offer.kept_for), offer.idle and not held)

    # Candidates ---------------------------------------------------------------------------------------------------

    def _pairs(self) -> Iterator[tuple[str, str]]:
        """(target, kind) that somebody with room serves; an empty target is a job without one."""
        pairs: set[tuple[str, str]] = set()
        for taker in self._takers:
            if taker.shares.room < 1:
                continue
            for kind in taker.session.kinds:
                pairs.update((target, kind) for target in taker.session.targets)
                if kind != FILE_PUSH:
                    pairs.add(("", kind))
        yield from sorted(pairs)

    def _room_on(self, target: str) -> int:
        """How many more attempts the target may run."""
        if not target:
            return sum(taker.shares.room for taker in self._takers)
        return max(0, self._unit.limits.target - self._unit.ledger.value((TARGET_RUNNING, target)))

    def _room_for(self, target: str, kind: str, *, alone: bool) -> int:
        """How many attempts the takers could take. What must run alone waits for an idle one, whatever its share."""
        serving = [taker.shares for taker in self._takers if taker.serves(target, kind)]
        return sum(shares.room if alone else shares.of(target) for shares in serving)

    def _candidates(self, *, alone: bool) -> list[_Candidate]:
        found: list[_Candidate] = []
        for target, kind in self._pairs():
            most = min(self._room_for(target, kind, alone=alone), self._room_on(target))
            if most < 1:
                continue
            taker = taker_of(kind, alone=alone)
            for seq, priority in self._unit.link.rows(_READY, target=target, taker=taker, most=most):
                found.append(_Candidate(-priority, seq, target, kind))
        return sorted(found)

    # Taking -------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        for target, kind in self._pairs():
            takers = [taker for taker in self._takers if taker.settles(target, kind)]
            most = min(sum(taker.shares.of(target) for taker in takers), self._room_on(target))
            if most < 1:
                continue
            rows = self._unit.link.rows(_UNSETTLED, target=target, kind=kind, now=self._unit.now, most=most)
            for entry in self._unit.load(row[0] for row in rows):
                self._give(self._roomiest(takers, target), entry)

    def _run_alone(self) -> None:
        for candidate, entry in self._loaded(alone=True):
            if not self._has_room(entry):
                continue
            serving = [taker for taker in self._takers if taker.serves(candidate.target, candidate.kind)]
            idle = [taker for taker in serving if taker.idle and taker.shares.room > 0]
            if idle:
                self._give(idle[0], entry)
                idle[0].shares.room = 0
            else:
                self._solo_waiting.update(taker.session.id for taker in serving)

    def _run_rest(self) -> None:
        for candidate, entry in self._loaded(alone=False):
            if self._has_room(entry):
                serving = [taker for taker in self._takers if taker.serves(candidate.target, candidate.kind)]
                self._give(self._roomiest(serving, candidate.target), entry)
            else:
                # It stood in the way of others, and does no more when this is over: see `trim_lanes`.
                self._unit.claimable = True

    def _loaded(self, *, alone: bool) -> Iterator[tuple[_Candidate, Entry]]:
        candidates = self._candidates(alone=alone)
        entries = {entry.order.seq: entry for entry in self._unit.load(each.seq for each in candidates)}
        for candidate in candidates:
            yield candidate, entries[candidate.seq]

    def _has_room(self, entry: Entry) -> bool:
        """Its target and its instance may run one more. The claims of this round count already."""
        lane = entry.lane
        return self._room_on(entry.order.target) > 0 and (not lane or room_in(self._unit, lane) > 0)

    def _roomiest(self, takers: list[_Taker], target: str) -> _Taker | None:
        """Work is spread: the one with the most room next."""
        able = [taker for taker in takers if taker.shares.of(target) > 0]
        return max(able, key=lambda taker: taker.shares.room, default=None)

    def _give(self, taker: _Taker | None, entry: Entry) -> None:
        if taker is None:
            return
        session = taker.session
        decision = self._unit.apply(entry, Claimed(session.id, session.worker, self._unit.ticks))
        if decision.verdict is not Verdict.CHANGED:
            raise AssertionError(f"a {entry.status.state.name} task was offered for a claim")
        taker.shares.take(entry.order.target)
        taker.idle = False
        self._taken.append((session.id, entry))


def claim_tasks(unit: UnitOfWork, command: ClaimTasks) -> Callable[[], Claims]:
    """See ClaimTasks. Runs last in a batch, when everything else is decided and written."""
    taken, solo_waiting = _Round(unit, command).run()
    return lambda: Claims(tuple((session_id, entry.task) for session_id, entry in taken), solo_waiting)
