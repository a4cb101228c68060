"""A debt is a temp that a lost attempt may have left. This module asks a worker on the target to remove it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog

from longshore.contract.temps import temps_of
from longshore.server.engine.sessions.connection import WorkerConnection
from longshore.server.engine.sessions.fleet import Fleet
from longshore.server.engine.sessions.messages import DebtOrder
from longshore.server.model.clock import Clock
from longshore.server.model.errors import StoreUnavailable
from longshore.server.model.task import Debt
from longshore.server.store.commands import PayDebt
from longshore.server.store.protocol import Changes, Store, nothing

_log = structlog.get_logger("longshore.debts")

ASK_AGAIN: Final = 30.0
"""Seconds after which an unanswered or unpaid debt is asked for again, and the store for debts that have come due."""
AT_ONCE: Final = 100
"""Debts of one target that are asked for at once."""
_RETRY: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Asked:
    connection: WorkerConnection
    until: float


class Debts:
    """Asks for each debt at one connection at a time. Runs until cancelled."""

    def __init__(self, *, store: Store, fleet: Fleet, clock: Clock, ask_again: float = ASK_AGAIN) -> None:
        self._store = store
        self._fleet = fleet
        self._clock = clock
        self._ask_again = ask_again
        self._asked: dict[str, _Asked] = {}
        self._answered: dict[str, bool] = {}
        """Debts that were answered, and whether they are paid."""
        self._turn = 0
        self._bell = asyncio.Event()
        self._unsubscribe = store.subscribe(self._on_commit, wants=nothing)
        fleet.on_change(self._bell.set)

    def _on_commit(self, changes: Changes) -> None:
        if changes.debts:
            self._bell.set()

    def reported(self, connection: WorkerConnection, debt_id: str, *, paid: bool) -> None:
        """Take in what a worker says of a debt that it was asked for. Any other worker's word does not count."""
        asked = self._asked.get(debt_id)
        if asked is None or asked.connection is not connection:
            return
        self._answered[debt_id] = paid
        self._bell.set()

    async def run(self) -> None:
        """Ask and pay until cancelled."""
        try:
            while True:
                try:
                    await self._file_answers()
                    await self._ask()
                except StoreUnavailable:
                    await asyncio.sleep(_RETRY)
                    continue
                try:
                    async with asyncio.timeout(self._ask_again):
                        await self._bell.wait()
                except TimeoutError:
                    pass  # debts come due by time alone
                self._bell.clear()
        finally:
            self._unsubscribe()

    async def _file_answers(self) -> None:
        while self._answered:
            debt_id, paid = next(iter(self._answered.items()))
            # An unpaid one is put off: asking at once would only ask in vain, and it hides nobody else's meanwhile.
            command = PayDebt(debt_id=debt_id) if paid else PayDebt(debt_id=debt_id, paid=False, again=self._ask_again)
            await self._store.run(command)
            del self._answered[debt_id]
            self._asked.pop(debt_id, None)

    async def _ask(self) -> None:
        now = self._clock.ticks()
        self._asked = {
            debt_id: asked
            for debt_id, asked in self._asked.items()
            if debt_id in self._answered or (asked.until > now and not asked.connection.over)
        }
        for target in self._fleet.targets():
            # One target at a time, so that the debts of a hung one hide nobody else's.
            for debt in await self._store.debts([target], limit=AT_ONCE):
                self._ask_for(debt)

    def _ask_for(self, debt: Debt) -> None:
        serving = self._fleet.serving(debt.destination.target)
        if debt.id in self._asked or not serving:
            return
        # Another one each time: what one cannot reach, perhaps the next one can.
        self._turn += 1
        connection = serving[self._turn % len(serving)]
        temps = (debt.temp,) if debt.temp else temps_of(debt.destination.path, debt.task_id, debt.attempt)
        connection.outbox.debt(DebtOrder(debt.id, debt.destination, temps))
        self._asked[debt.id] = _Asked(connection, self._clock.ticks() + self._ask_again)
        _log.debug("debt_asked_for", debt_id=debt.id, session_id=connection.id, target=debt.destination.target)
