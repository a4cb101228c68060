"""A worker that knows several servers: where its session goes when one of them fails, and that attempts go with it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from longshore.client import TLS, ConfigurationError, TLSError
from longshore.client.errors import Unauthenticated
from longshore.v1 import worker_service_pb2 as ws
from longshore.v1.task_service_pb2 import GoAway
from longshore.worker import Registry
from tests.support.network.proxy import FaultProxy
from tests.support.servers.certificates import Authority, replace
from tests.support.servers.fakeserver import FakeServer, WorkerPeer, job, names, serving, soon
from tests.support.workers.gate import Gate, until
from tests.support.workers.working import Start, workers


@dataclass
class Two:
    """A worker of two servers: the one that it is with, and the other."""

    here: FakeServer
    there: FakeServer
    peer: WorkerPeer


class Fleet:
    """Servers, and what starts workers that know all of them, `rehome` never unless it is told."""

    def __init__(self, start: Start, servers: list[FakeServer]) -> None:
        self.start, self.servers = start, servers

    async def worker(self, registry: Registry, **settings: object) -> Two:
        addresses = [server.address for server in self.servers]
        await self.start(registry, **({"server": addresses, "rehome": 0.0} | settings))
        here, peer = await self.joined()
        return Two(here, next(server for server in self.servers if server is not here), peer)

    async def joined(self) -> tuple[FakeServer, WorkerPeer]:
        """The server that is connected to next, whichever it is."""
        waiting = {asyncio.create_task(server.peer()): server for server in self.servers}
        done, late = await soon(asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED))
        for task in late:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*late)
        [first] = done
        return waiting[first], first.result()


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        start = await stack.enter_async_context(workers(tmp_path))
        servers = [start.server, await stack.enter_async_context(serving())]
        for server in servers:
            server.lease = 3.0
        yield Fleet(start, servers)
        await start.stop()


def says_go_away(two: Two) -> None:
    two.peer.say(go_away=GoAway(reason="DRAINING"))


def ends(two: Two) -> None:
    two.peer.end(grpc.StatusCode.UNAVAILABLE)


def is_silent(two: Two) -> None:
    two.peer.ack_heartbeats = False


@pytest.mark.parametrize("trouble", [says_go_away, ends, is_silent])
async def test_a_session_continues_at_another_server(fleet: Fleet, trouble: Callable[[Two], None]) -> None:
    gate = Gate()
    two = await fleet.worker(gate.registry)
    two.peer.assign(job("T1", "gate"), attempt=3)
    await gate.running()
    began = time.monotonic()
    trouble(two)
    peer = await two.there.peer()
    assert time.monotonic() - began < two.here.lease, "within its lease"
    assert peer.hello.session_id == two.peer.hello.session_id
    assert names(peer.hello.held) == {("T1", 3)}
    gate.open.set()
    assert (await peer.report()).outcome == ws.OUTCOME_OK
    assert gate.stopped == []


async def test_a_server_that_is_gone_is_passed_over_at_once(fleet: Fleet) -> None:
    two = await fleet.worker(Gate().registry)
    await two.here.stop()
    peer = await two.there.peer()
    began = time.monotonic()
    for _ in range(3):
        peer.end(grpc.StatusCode.UNAVAILABLE)
        peer = await two.there.peer()
    assert time.monotonic() - began < 2.0
    await two.here.start()
    peer.end(grpc.StatusCode.UNAVAILABLE)
    _, peer = await fleet.joined()


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED])
async def test_a_refusal_leads_back_to_the_first(fleet: Fleet, code: grpc.StatusCode) -> None:
    two = await fleet.worker(Gate().registry)
    two.there.refusals.append((code, "STORE_UNAVAILABLE"))
    two.peer.end(grpc.StatusCode.UNAVAILABLE)
    server, _ = await fleet.joined()
    assert not two.there.refusals
    assert server.connections


async def test_a_black_hole_does_not_use_up_the_lease(fleet: Fleet) -> None:
    """The black hole takes connections and never says welcome."""
    here, there = fleet.servers
    async with FaultProxy(upstream=("127.0.0.1", there.port)) as hole:
        two = await fleet.worker(Gate().registry, server=[here.address, hole.address])
        peer = two.peer
        if two.here is there:
            peer.end(grpc.StatusCode.UNAVAILABLE)
            peer = await here.peer()
        hole.stall()
        before = hole.connections
        peer.end(grpc.StatusCode.UNAVAILABLE)
        began = time.monotonic()
        await here.peer()
        assert time.monotonic() - began < here.lease + 0.5
        assert hole.connections >= before


async def test_trouble_of_all_servers_moves_no_worker(fleet: Fleet) -> None:
    """The database is away: no server acknowledges anything. Attempts stay, and the worker comes to rest."""
    gate = Gate()
    for server in fleet.servers:
        server.lease = 0.4
        server.ack_heartbeats = False
    two = await fleet.worker(gate.registry)
    two.peer.assign(job("T1", "gate"))
    await gate.running()

    def connections() -> int:
        return sum(len(server.connections) for server in fleet.servers)

    began = time.monotonic()
    await until(lambda: connections() >= 5)
    # 0.2, 0.4, 0.8 and 1.6 s, the heartbeats' own delay not counted.
    assert time.monotonic() - began > 2.8
    assert gate.stopped == []
    last = max((server.connections[-1] for server in fleet.servers if server.connections), key=lambda p: p.began)
    assert names(last.hello.held) == {("T1", 1)}
    gate.open.set()
    await last.report()


async def test_one_server_is_not_left_for_its_silence(fleet: Fleet) -> None:
    server = fleet.servers[0]
    server.lease = 0.2
    await fleet.start(Gate().registry, server=server.address)
    peer = await server.peer()
    peer.ack_heartbeats = False
    before = len(peer.heartbeats)
    await peer.until(lambda: len(peer.heartbeats) >= before + 12)
    assert len(server.connections) == 1


async def test_an_idle_worker_moves_to_another_server_at_times(fleet: Fleet) -> None:
    two = await fleet.worker(Gate().registry, rehome=0.1)
    peer = await two.there.peer()
    assert peer.hello.session_id == two.peer.hello.session_id
    await two.here.peer()


async def test_a_worker_does_not_move_to_an_absent_server(fleet: Fleet) -> None:
    here, there = fleet.servers
    await there.stop()
    two = await fleet.worker(Gate().registry, rehome=0.05)
    assert two.here is here
    await two.peer.until(lambda: len(two.peer.heartbeats) >= 4)
    assert len(here.connections) == 1


async def test_a_busy_worker_moves_at_last_with_its_attempts(fleet: Fleet) -> None:
    gate = Gate()
    two = await fleet.worker(gate.registry, rehome=0.5)
    two.peer.assign(job("T1", "gate"))
    await gate.running()
    peer = await two.there.peer()
    assert names(peer.hello.held) == {("T1", 1)}
    gate.open.set()
    assert (await peer.report()).outcome == ws.OUTCOME_OK


async def test_workers_spread(fleet: Fleet) -> None:
    counts: Counter[int] = Counter()
    for _ in range(24):
        two = await fleet.worker(Gate().registry)
        counts[two.here.port] += 1
    assert min(counts.values(), default=0) >= 3
    assert len(counts) == 2


async def test_a_worker_ends_only_when_every_server_refuses_it(fleet: Fleet, tmp_path: Path) -> None:
    refusal = (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    fleet.servers[0].refusals.extend([refusal] * 9)
    await fleet.worker(Gate().registry)
    fleet.servers[1].refusals.extend([refusal] * 9)
    _, worker = await fleet.start(Gate().registry, server=[server.address for server in fleet.servers])
    with pytest.raises(Unauthenticated):
        await fleet.start.ended(worker)


async def test_a_session_over_tls_and_with_a_certificate_of_its_own(fleet: Fleet, tmp_path: Path) -> None:
    authority = Authority()
    replace(tmp_path / "ca.crt", authority.certificate)
    pair, own = authority.server(), authority.client()
    cert, key = own.write(tmp_path, "worker")
    credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)], authority.certificate, True)
    server = FakeServer(credentials)
    server.payloads["T1"] = bytes(1000)
    await server.start()
    try:
        gate = Gate()
        tls = TLS(ca=tmp_path / "ca.crt", cert=cert, key=key)
        await fleet.start(gate.registry, server=server.address, tls=tls)
        peer = await server.peer()
        assert peer.hello.session_id
        # And one that is not let in ends at once, and says why.
        _, other = await fleet.start(gate.registry, server=server.address, tls=TLS(ca=tmp_path / "ca.crt"))
        with pytest.raises(TLSError, match="--tls-cert"):
            await fleet.start.ended(other)
        with pytest.raises(ConfigurationError, match="--tls-ca"):
            await fleet.start(gate.registry, server=server.address, tls=TLS(ca=tmp_path / "none"))
        await fleet.start.stop()
    finally:
        await server.stop()
