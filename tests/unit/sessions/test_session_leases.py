from __future__ import annotations

from typing import Any, cast

from longshore.server.engine.sessions.connection import WorkerConnection
from longshore.server.engine.sessions.leases import LeaseKeeper
from longshore.server.model.errors import LeaseLost, StoreUnavailable
from longshore.server.model.task import Session
from longshore.server.store.commands import RenewLeases
from longshore.server.store.protocol import Store

LEASE = 6.0


class HandClock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        return self.seconds

    def ticks(self) -> float:
        return self.seconds

    def jitter(self) -> float:
        return 0.5


class LeaseStore:
    """Renews whom it knows, unless it is away."""

    def __init__(self) -> None:
        self.alive: set[tuple[str, int]] = set()
        self.asked: list[RenewLeases] = []
        self.away = False

    async def run(self, command: Any) -> Any:
        assert isinstance(command, RenewLeases)
        self.asked.append(command)
        if self.away:
            raise StoreUnavailable("away")
        return frozenset(session_id for session_id, epoch in command.sessions if (session_id, epoch) in self.alive)


class Bench:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.store = LeaseStore()
        self.connections: list[WorkerConnection] = []
        self.keeper = LeaseKeeper(
            store=cast("Store", self.store), clock=self.clock, lease=LEASE, connections=lambda: self.connections
        )

    def connect(self, session_id: str, *, epoch: int = 1) -> WorkerConnection:
        session = Session(session_id, "worker", "local", epoch, {}, {}, "", 0.0, 0.0)
        connection = WorkerConnection(
            session=session,
            local=True,
            store=cast("Store", self.store),
            ticks=self.clock.ticks(),
            on_room=lambda _: None,
        )
        self.connections.append(connection)
        self.store.alive.add((session_id, epoch))
        return connection

    async def round(self, *, seconds: float = 1.0) -> None:
        self.clock.seconds += seconds
        self.keeper._sweep()
        await self.keeper._renew()


def acked(connection: WorkerConnection) -> int | None:
    return connection.outbox.take().heartbeat_ack


async def test_all_that_spoke_are_renewed_in_one_command_and_answered_then() -> None:
    bench = Bench()
    a, b, quiet = bench.connect("a"), bench.connect("b", epoch=4), bench.connect("quiet")
    bench.keeper.heard(a, 7)
    bench.keeper.heard(a, None)
    bench.keeper.heard(a, 8)
    bench.keeper.heard(b, None)
    assert acked(a) is None
    await bench.round()
    assert [set(one.sessions) for one in bench.store.asked] == [{("a", 1), ("b", 4)}]
    assert (acked(a), acked(b), acked(quiet)) == (8, None, None)
    await bench.round()
    assert len(bench.store.asked) == 1


async def test_a_heartbeat_is_not_answered_before_it_is_durable() -> None:
    bench = Bench()
    connection = bench.connect("a")
    bench.store.away = True
    bench.keeper.heard(connection, 3)
    await bench.round()
    assert acked(connection) is None
    bench.keeper.heard(connection, 4)
    await bench.round()
    assert acked(connection) is None
    bench.store.away = False
    await bench.round()
    assert acked(connection) == 4
    assert not connection.over


async def test_a_session_that_is_not_renewed_has_lost_its_lease() -> None:
    bench = Bench()
    connection = bench.connect("a")
    bench.store.alive.clear()
    bench.keeper.heard(connection, 3)
    await bench.round()
    assert connection.over
    assert isinstance(connection.error, LeaseLost)


async def test_a_session_silent_for_a_lease_is_disconnected() -> None:
    bench = Bench()
    silent, lively = bench.connect("silent"), bench.connect("lively")
    for _ in range(7):
        assert not silent.over
        bench.keeper.heard(lively, None)
        await bench.round()
    assert silent.over
    assert isinstance(silent.error, LeaseLost)
    assert not lively.over


async def test_a_server_that_was_paused_counts_no_crash() -> None:
    bench = Bench()
    connection = bench.connect("a")
    await bench.round(seconds=10 * LEASE)
    # The worker may have slept too: it has a whole lease to say something.
    for _ in range(5):
        await bench.round()
        assert not connection.over
    bench.keeper.heard(connection, None)
    await bench.round()
    assert not connection.over
