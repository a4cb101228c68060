"""A client of several servers: it goes round them, and goes on at another one when one of them fails."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import grpc
import pytest

from longshore.client import (
    AsyncClient,
    FailedPrecondition,
    ResourceExhausted,
    Unavailable,
    UploadProgress,
    job_spec,
    push_spec,
)
from longshore.client.servers.balance import Balance
from longshore.client.servers.endpoint import Endpoint
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from tests.support.network.proxy import FaultProxy
from tests.support.servers.fakeservice import Break, Cut, FakeTaskServer, Refuse

MIB = 1024 * 1024
SPEC = push_spec("web/etc/motd")
LAST = 9


def says(reason: str, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> Refuse:
    return Refuse(code=code, reason=reason)


@pytest.fixture
async def servers() -> AsyncIterator[list[FakeTaskServer]]:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(FakeTaskServer()) for _ in range(3)]
        for server in servers:
            server.service.history["t"] = [
                task_pb2.Task(id="t", revision=n, state=task_pb2.TASK_STATE_RUNNING, done=n == LAST)
                for n in range(1, LAST + 1)
            ]
        yield servers


@pytest.fixture
def waits() -> list[float]:
    """Pauses that the client made."""
    return []


@pytest.fixture
async def client(servers: list[FakeTaskServer], waits: list[float]) -> AsyncIterator[AsyncClient]:
    addresses = [server.address for server in servers]
    async with (
        AsyncClient(server=addresses, patience=10, on_wait=lambda _error, pause: waits.append(pause)) as client,
        asyncio.timeout(30),
    ):
        yield client


def asked(servers: list[FakeTaskServer]) -> list[int]:
    """Return how often each server was asked."""
    return [len(server.service.requests) for server in servers]


async def test_calls_watches_and_uploads_go_round(client: AsyncClient, servers: list[FakeTaskServer]) -> None:
    for _ in range(6):
        await client.get("t")
    assert asked(servers) == [2, 2, 2]
    for number in range(3):
        await client.upload(b"x", spec=SPEC, request_id=f"r{number}")
    assert [len(server.service.headers) for server in servers] == [1, 1, 1]
    for _ in range(3):
        await anext(client.watch("t"))
    assert [len(server.service.watched_after) for server in servers] == [1, 1, 1]


async def test_clients_begin_anywhere(servers: list[FakeTaskServer]) -> None:
    for _ in range(40):
        async with AsyncClient(server=",".join(server.address for server in servers)) as client:
            await client.get("t")
    assert min(asked(servers)) > 0


async def test_an_absent_server_costs_no_pause_and_returns_by_itself(
    client: AsyncClient, servers: list[FakeTaskServer], waits: list[float]
) -> None:
    away = servers[1]
    await away.__aexit__()
    for _ in range(12):
        await client.get("t")
    assert asked(servers)[1] == 0
    async with away:
        before = asked(servers)[1]
        while asked(servers)[1] == before:
            await client.get("t")
            await asyncio.sleep(0)
        assert not waits
        assert away.service.requests


@pytest.mark.parametrize("reason", ["DRAINING", "STORE_UNAVAILABLE"])
async def test_a_server_that_cannot_serve_is_not_asked_twice(
    client: AsyncClient, servers: list[FakeTaskServer], reason: str
) -> None:
    servers[0].service.calls += [says(reason)] * 100
    for _ in range(10):
        await client.get("t")
    assert asked(servers)[0] <= 1


async def test_the_same_request_id_goes_to_the_next(client: AsyncClient, servers: list[FakeTaskServer]) -> None:
    for server in servers[:2]:
        server.service.calls += [says("DRAINING")] * 9
    for _ in range(3):
        await client.submit(spec=job_spec("thumbnail"))
    ids = [request.request_id for request in servers[2].service.requests if isinstance(request, pb.SubmitTaskRequest)]
    assert len(ids) == len(set(ids)) == 3
    for server in servers[:2]:
        for request in server.service.requests:
            assert isinstance(request, pb.SubmitTaskRequest)
            assert request.request_id in ids


async def test_without_patience_each_is_asked_once(servers: list[FakeTaskServer]) -> None:
    for server in servers:
        server.service.calls += [says("STORE_UNAVAILABLE")] * 9
    async with AsyncClient(server=[server.address for server in servers], patience=0) as client:
        with pytest.raises(Unavailable, match="STORE_UNAVAILABLE"):
            await client.get("t")
    assert asked(servers) == [1, 1, 1]


async def test_when_all_are_away_there_are_pauses(servers: list[FakeTaskServer]) -> None:
    for server in servers:
        server.service.calls += [says("STORE_UNAVAILABLE")] * 9
    waits: list[float] = []
    async with AsyncClient(
        server=[server.address for server in servers], patience=1.0, on_wait=lambda _error, pause: waits.append(pause)
    ) as client:
        with pytest.raises(Unavailable):
            await client.get("t")
    assert len(waits) >= 2
    assert asked(servers) == [len(waits) + 1] * 3


@pytest.mark.parametrize(("reason", "tried"), [("QUEUE_FULL", 1), ("TOO_MANY_UPLOADS", 3)])
async def test_only_bounds_of_one_server_are_no_reason_to_wait(
    servers: list[FakeTaskServer], reason: str, tried: int
) -> None:
    for server in servers:
        server.service.calls += [says(reason, grpc.StatusCode.RESOURCE_EXHAUSTED)]
    async with AsyncClient(server=[server.address for server in servers], patience=0) as client:
        with pytest.raises(ResourceExhausted):
            await client.submit(spec=job_spec("thumbnail"))
    assert sum(asked(servers)) == tried


async def test_a_refusal_is_not_asked_of_another_server(client: AsyncClient, servers: list[FakeTaskServer]) -> None:
    for server in servers:
        server.service.calls += [says("NOT_RETRYABLE", grpc.StatusCode.FAILED_PRECONDITION)]
    with pytest.raises(FailedPrecondition):
        await client.retry("t")
    assert sum(asked(servers)) == 1


@pytest.mark.parametrize("how", ["status", "go_away", "end"])
async def test_a_watch_goes_on_elsewhere_without_gap_or_repeat(
    client: AsyncClient, servers: list[FakeTaskServer], waits: list[float], how: str
) -> None:
    for server in servers:
        server.service.watches += [Break(after=2, how=how, repeat=1), Break(after=2, how=how, repeat=2)]
    assert [task.revision async for task in client.watch("t")] == list(range(1, LAST + 1))
    assert min(len(server.service.watched_after) for server in servers) > 0
    assert not waits


async def test_an_upload_continues_elsewhere_from_its_durable_bytes(
    client: AsyncClient, servers: list[FakeTaskServer]
) -> None:
    """No server has what another one has; the third one, with some luck, gets the whole."""
    content = os.urandom(7 * MIB)
    left = Cut(after=3 * MIB, end=says("DRAINING"))
    for server in servers:
        server.service.uploads += [left]
    seen: list[UploadProgress] = []
    [task] = await client.upload(content, spec=SPEC, request_id="r", progress=seen.append)
    assert task.id == "r-0"
    whole = [server for server in servers if server.service.stored["r"].complete]
    assert [bytes(server.service.stored["r"].data) for server in whole] == [content]
    sent = [progress.sent for progress in seen]
    assert sent.count(0) == 3, "it began anew at each of them"
    assert sent[-1] == len(content)


async def test_an_upload_that_is_cut_asks_its_own_server_first(servers: list[FakeTaskServer]) -> None:
    content = os.urandom(9 * MIB)
    one, two = servers[:2]
    async with (
        FaultProxy(upstream=("127.0.0.1", one.port)) as to_one,
        FaultProxy(upstream=("127.0.0.1", two.port)) as to_two,
        AsyncClient(server=[to_one.address, to_two.address], patience=10) as client,
    ):
        cut = False

        def cut_once(progress: UploadProgress) -> None:
            nonlocal cut
            if progress.sent >= 4 * MIB and not cut:
                cut = True
                to_one.cut()
                to_two.cut()

        await client.upload(content, spec=SPEC, request_id="r", progress=cut_once)
    assert cut
    assert sorted(len(server.service.headers) for server in (one, two)) == [0, 2]


async def test_an_upload_that_moves_is_not_given_up(servers: list[FakeTaskServer]) -> None:
    """The other server has nothing of what the first one had: it begins anew, which is no standstill."""
    one, two = servers[:2]
    one.service.uploads += [Cut(after=5 * MIB, end=says("DRAINING"))]
    two.service.uploads += [Cut(after=MIB, durable=n * MIB, end=says("DRAINING")) for n in range(1, 6)]
    now = time.monotonic()
    async with AsyncClient(server=[one.address, two.address], patience=2.0) as client:
        await client.upload(os.urandom(8 * MIB), spec=SPEC, request_id="r")
    assert time.monotonic() - now < 10


async def test_a_machine_that_is_gone_holds_up_one_call_only(
    servers: list[FakeTaskServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes connections and says nothing, as one does that is stopped."""
    monkeypatch.setattr("longshore.client.servers.servers._CONNECT", 0.3)
    async with FaultProxy(upstream=("127.0.0.1", servers[0].port)) as hole:
        hole.stall()
        async with AsyncClient(server=[hole.address, servers[1].address]) as client:
            began = time.monotonic()
            for _ in range(50):
                await client.get("t")
            assert time.monotonic() - began < 5, "it was waited for once or twice, and not by each call"
    assert asked(servers) == [0, 50, 0]


async def test_a_server_that_falls_silent_is_left_and_its_connection_too(
    servers: list[FakeTaskServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longshore.client.servers.servers._CONNECT", 0.3)
    monkeypatch.setattr("longshore.client.aio._FIRST_ANSWER", 0.3)
    async with (
        FaultProxy(upstream=("127.0.0.1", servers[0].port)) as hole,
        AsyncClient(server=[hole.address, servers[1].address]) as client,
    ):
        for _ in range(4):
            await client.get("t")
        assert asked(servers)[:2] == [2, 2]
        hole.stall()
        for _ in range(10):
            await client.get("t")
        assert asked(servers)[:2] == [2, 12]
        hole.cut()
        hole.release()
        while asked(servers)[0] == 2:
            await client.get("t")
            await asyncio.sleep(0)
        assert hole.connections >= 2, "on a new connection"


async def test_every_address_of_a_name_is_used(servers: list[FakeTaskServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's resolver gives what it is told here; each address is a server of its own to the client."""
    async with (
        FaultProxy(upstream=("127.0.0.1", servers[0].port)) as proxy,
        AsyncClient(server="fleet.example.org:1") as client,
    ):
        given = [("127.0.0.1", proxy.port), ("127.0.0.1", servers[1].port)]

        async def addresses(endpoint: Endpoint) -> list[Endpoint]:
            assert endpoint.is_name
            return [Endpoint(host=host, port=port, name="localhost") for host, port in given]

        monkeypatch.setattr("longshore.client.servers.names._addresses", addresses)
        for _ in range(4):
            await client.get("t")
        assert asked(servers)[:2] == [2, 2]


async def test_a_name_that_is_not_found_hides_no_other(servers: list[FakeTaskServer]) -> None:
    async with AsyncClient(server=["nowhere.invalid:7465", servers[0].address], patience=0) as client:
        await client.get("t")


async def test_an_unknown_name_is_unavailable() -> None:
    async with AsyncClient(server="nowhere.invalid:7465", patience=0) as client:
        with pytest.raises(Unavailable, match=r"nowhere\.invalid cannot be looked up"):
            await client.get("t")


async def test_one_address_is_asked_as_ever(servers: list[FakeTaskServer]) -> None:
    """No second try without a pause, and none at all without patience."""
    servers[0].service.calls += [says("DRAINING")] * 9
    waits: list[float] = []
    async with AsyncClient(
        server=servers[0].address, patience=0.25, on_wait=lambda _error, pause: waits.append(pause)
    ) as client:
        with pytest.raises(Unavailable):
            await client.get("t")
    assert asked(servers)[0] == len(waits) + 1


async def test_a_server_that_restarts_is_found_within_a_second(servers: list[FakeTaskServer]) -> None:
    """gRPC's own back-off on a channel grows to seconds, in which calls fail without anybody being asked."""
    server = servers[0]
    waits: list[float] = []
    async with AsyncClient(
        server=server.address, patience=30, on_wait=lambda _error, pause: waits.append(pause)
    ) as client:
        await client.get("t")
        await server.__aexit__()
        waiting = asyncio.create_task(client.get("t"))
        while len(waits) < 7:
            assert not waiting.done()
            await asyncio.sleep(0.01)
        async with server:
            before = len(waits)
            await waiting
            assert max(waits) <= 1.0
            assert len(waits) <= before + 1, "the first try after its start finds it"


def test_chance_of_the_balance_is_asked_once() -> None:
    assert Balance([Endpoint(host="a", port=1)]).pick() == Endpoint(host="a", port=1)
