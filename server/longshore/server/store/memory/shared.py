"""This module tells whether a claim is worth its turn, where several servers share a database.

Every server hears of each commit that makes something claimable, and all of them but one come too late. A server whose
last claim took nothing looks first, without the turn, whether there is anything at all for the sessions it offers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa

from longshore.contract.version import REVISION
from longshore.server.model.task import Session
from longshore.server.store.commands import Claims, ClaimTasks, Command
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Each
from longshore.server.store.tables.rows import taker_of
from longshore.server.store.tables.schema import counters, is_ready, is_unsettled, tasks
from longshore.server.store.transaction.counters import TARGET_RUNNING
from longshore.server.store.transaction.limits import ConcurrencyLimits
from longshore.server.store.transaction.memory import Memory

_MOST: Final = 10_000
"""The most sessions that are remembered."""

_READY: Final = Each(
    lambda given: (
        sa.select(tasks.c.seq)
        .where(is_ready, tasks.c.target == given["target"], tasks.c.taker == given["taker"])
        .limit(sa.literal_column("1"))
    ),
    {"target": sa.Text, "taker": sa.Text},
)
_UNSETTLED: Final = Each(
    lambda given: (
        sa.select(tasks.c.seq)
        .where(
            is_unsettled,
            tasks.c.target == given["target"],
            tasks.c.kind == given["kind"],
            tasks.c.due_at <= given["now"],
        )
        .limit(sa.literal_column("1"))
    ),
    {"target": sa.Text, "kind": sa.Text, "now": sa.Double},
)
_RUNNING: Final = Each(
    lambda given: sa.select(counters.c.value).where(
        counters.c.scope == sa.literal_column(f"'{TARGET_RUNNING}'"), counters.c.name == given["target"]
    ),
    {"target": sa.Text},
)


class SharedMemory(Memory):
    """Remembers two things that no other server changes: which counters have a row, and whether the last claim took
    anything."""

    def __init__(self, limits: ConcurrencyLimits) -> None:
        super().__init__()
        self._limits = limits
        self._sessions: dict[tuple[str, int], Session] = {}
        self._last_took_nothing = False
        """Tells whether the last transaction that only claimed took nothing."""

    def begin(self, link: Link, batch: Sequence[Command[Any]]) -> None:
        del link, batch

    def forget(self) -> None:
        self.counter_rows.clear()

    def claims_for(self, session: Session) -> None:
        # What a session serves does not change within one epoch.
        if len(self._sessions) >= _MOST:
            self._sessions.clear()
        self._sessions[session.id, session.epoch] = session

    def committed(self, results: Iterable[object]) -> None:
        answers = list(results)
        claims = [answer for answer in answers if isinstance(answer, Claims)]
        # A transaction that did more than claim says nothing about the next claim.
        if len(claims) == len(answers):
            self._last_took_nothing = not any(each.taken for each in claims)

    def nothing_to_claim(self, link: Link, batch: Sequence[Command[Any]], now: float) -> bool:
        # Costs one round trip at most.
        if not self._last_took_nothing or not all(isinstance(command, ClaimTasks) for command in batch):
            return False
        offers = [offer for command in batch if isinstance(command, ClaimTasks) for offer in command.offers]
        sessions = [self._sessions.get((offer.session_id, offer.epoch)) for offer in offers]
        pairs: set[tuple[str, str]] = set()
        for session in sessions:
            if session is None:
                return False
            pairs.update((target, kind) for target in ("", *session.targets) for kind in session.kinds)
        return not self._finds_something(link, sorted(pairs), now)

    def _finds_something(self, link: Link, pairs: Sequence[tuple[str, str]], now: float) -> bool:
        takers = [
            (target, taker_of(kind, alone=alone, revision=revision))
            for target, kind in pairs
            for alone in (False, True)
            for revision in (0, REVISION)
        ]
        targets = sorted({target for target, _ in pairs})
        ready = link.ask_each(_READY, takers)
        unsettled = link.ask_each(_UNSETTLED, [(*pair, now) for pair in pairs])
        running = link.ask_each(_RUNNING, [(target,) for target in targets])
        found = {target for (target, _), rows in zip(takers, ready(), strict=True) if rows}
        found |= {target for (target, _), rows in zip(pairs, unsettled(), strict=True) if rows}
        full = {
            target
            for target, rows in zip(targets, running(), strict=True)
            if target and rows and rows[0][0] >= self._limits.target
        }
        return bool(found - full)
