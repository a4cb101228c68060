from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from longshore.server.engine.sessions import debts as session_debts
from longshore.server.engine.sessions.connection import WorkerConnection
from longshore.server.engine.sessions.debts import Debts
from longshore.server.engine.sessions.fleet import Fleet
from longshore.server.model.clock import SystemClock
from longshore.server.model.errors import StoreUnavailable
from longshore.server.model.task import Debt, Destination, Session
from longshore.server.store.commands import PayDebt
from longshore.server.store.protocol import Changes, Store, Wants
from tests.support.waiting import running

AGAIN = 0.05


class DebtStore:
    def __init__(self, *debts: Debt) -> None:
        self.owed = {debt.id: debt for debt in debts}
        self.due: dict[str, float] = {}
        self.failures = 0
        self.read = asyncio.Event()

    def subscribe(self, _listener: Callable[[Changes], None], *, wants: Wants | None = None) -> Callable[[], None]:
        del wants
        return lambda: None

    async def debts(self, targets: Sequence[str], *, limit: int) -> list[Debt]:
        self.read.set()
        now = SystemClock().ticks()
        due = [debt for debt in self.owed.values() if self.due.get(debt.id, 0.0) <= now]
        return [debt for debt in due if debt.destination.target in targets][:limit]

    async def run(self, command: Any) -> Any:
        assert isinstance(command, PayDebt)
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("away")
        if command.paid:
            self.owed.pop(command.debt_id, None)
        else:
            self.due[command.debt_id] = SystemClock().ticks() + command.again


class Bench:
    def __init__(self, *debts: Debt) -> None:
        self.store = DebtStore(*debts)
        self.fleet = Fleet()
        store = cast("Store", self.store)
        self.debts = Debts(store=store, fleet=self.fleet, clock=SystemClock(), ask_again=AGAIN)

    def connect(self, session_id: str, target: str = "lxd") -> WorkerConnection:
        session = Session(session_id, "worker", "local", 1, {target: ""}, {}, "", 0.0, 0.0)
        store = cast("Store", self.store)
        connection = WorkerConnection(session=session, local=True, store=store, ticks=0.0, on_room=self.fleet.room)
        self.fleet.add(connection)
        return connection

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with running(self.debts.run()), asyncio.timeout(5):
            yield


def debt(number: int, *, temp: str = "", target: str = "lxd") -> Debt:
    return Debt(f"debt-{number}", Destination(target, "", "c1", "/etc/motd"), f"task-{number}", 2, temp)


async def asked(connection: WorkerConnection) -> list[str]:
    """The debts that the worker is told of next."""
    assert await connection.outbox.ready()
    return [order.debt_id for order in connection.outbox.take().debts]


async def test_a_debt_is_with_one_worker_at_a_time_and_the_next_time_with_another() -> None:
    bench = Bench(debt(1))
    one, two = bench.connect("one"), bench.connect("two")
    async with bench.running():
        turns = [asyncio.create_task(asked(connection)) for connection in (one, two)]
        first, _ = await asyncio.wait(turns, return_when=asyncio.FIRST_COMPLETED)
        assert len(first) == 1
        # The one that was asked says that it could not.
        bench.debts.reported(one if turns[0].done() else two, "debt-1", paid=False)
        await asyncio.wait(turns)
        assert [turn.result() for turn in turns] == [["debt-1"], ["debt-1"]]


async def test_only_sessions_that_serve_the_target_are_asked_to_remove_the_known_temp() -> None:
    bench = Bench(debt(1, temp="/etc/.known"), debt(2, target="elsewhere"))
    bench.connect("stranger", target="another")
    server = bench.connect("server")
    async with bench.running():
        assert await server.outbox.ready()
        (order,) = server.outbox.take().debts
        assert (order.debt_id, order.temps) == ("debt-1", ("/etc/.known",))


async def test_a_paid_debt_is_forgotten_even_if_the_store_is_away_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_debts, "_RETRY", 0.01)
    bench = Bench(debt(1), debt(2))
    bench.store.failures = 3
    worker, stranger = bench.connect("one"), bench.connect("two", target="another")
    async with bench.running():
        assert sorted(await asked(worker)) == ["debt-1", "debt-2"]
        bench.debts.reported(stranger, "debt-2", paid=True)
        bench.debts.reported(worker, "debt-1", paid=True)
        while "debt-1" in bench.store.owed:
            bench.store.read.clear()
            await bench.store.read.wait()
        assert list(bench.store.owed) == ["debt-2"]
