"""A server does not put up with wrong words, strangers, and workers that do not listen."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from longshore.server.edge import worker_service
from longshore.server.store.commands import OpenSession
from longshore.server.store.transaction.limits import ConcurrencyLimits
from longshore.v1 import worker_service_pb2 as pb
from tests.support.servers.fleetserver import FleetServer, fleet_server
from tests.support.workers.fakeworker import FakeWorker, SessionRefused, Stream, ref


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({"protocol_version": 7}, grpc.StatusCode.FAILED_PRECONDITION, "PROTOCOL_VERSION"),
        ({"session_id": "short"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        ({"worker": "a b"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    ],
)
async def test_a_wrong_hello(worker: FakeWorker, fields: dict[str, object], code: grpc.StatusCode, reason: str) -> None:
    with pytest.raises(SessionRefused) as refused:
        await worker.connect(**fields)  # type: ignore[arg-type]  # each is a field of the hello
    assert (refused.value.code, refused.value.reason) == (code, reason)


async def test_a_session_of_another_principal(server: FleetServer, worker: FakeWorker) -> None:
    command = OpenSession(
        session_id=worker.session_id,
        worker="theirs",
        principal="somebody else",
        targets={},
        kinds={},
        version="1",
        held=(),
        dead_sessions=(),
        lease=60.0,
    )
    await server.store.run(command)
    with pytest.raises(SessionRefused) as refused:
        await worker.connect()
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN")
    (theirs,) = await server.store.sessions()
    assert (theirs.principal, theirs.epoch) == ("somebody else", 1)


async def test_no_hello_and_a_second_one(worker: FakeWorker) -> None:
    rude = await worker.open(pb.WorkRequest(credits=1))
    error = await rude.until_ended()
    assert error is not None
    assert (error.code, "hello" in str(error)) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    stream = await worker.connect()
    await stream.say(hello=worker.hello())
    error = await stream.until_ended()
    assert error is not None
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_that_never_says_hello_is_ended(
    server: FleetServer, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_service, "HELLO_PATIENCE", 0.05)
    call = worker.stub.Work(metadata=worker.metadata)
    async with asyncio.timeout(10):
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    call.cancel()


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("unix:", True),
        ("unix:/run/longshore.sock", True),
        ("ipv4:127.0.0.1:50000", True),
        ("ipv6:[::1]:50000", True),
        ("ipv6:%5B::1%5D:50000", True),
        ("ipv4:192.0.2.7:50000", False),
        ("ipv4:12.7.0.1:50000", False),
        ("ipv6:[2001:db8::1]:50000", False),
    ],
)
def test_only_a_peer_on_this_machine_is_told_of_paths(peer: str, local: bool) -> None:
    assert worker_service._is_local(peer) is local


async def test_too_many_credits(worker: FakeWorker) -> None:
    stream = await worker.connect()
    await stream.offer(1001)
    error = await stream.until_ended()
    assert error is not None
    assert (error.code, "credits" in str(error)) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_a_stream_that_ends_before_its_hello_leaves_nothing(server: FleetServer, worker: FakeWorker) -> None:
    call = worker.stub.Work(metadata=worker.metadata)
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.OK
    assert await server.store.sessions() == []


async def test_a_worker_without_a_token_is_refused(server: FleetServer) -> None:
    async with FakeWorker(server.address, token="guessed") as stranger:
        with pytest.raises(SessionRefused) as refused:
            await stranger.connect()
        assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(SessionRefused) as refused:
            await stranger.download("task", 1)
        assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_targets_name_is_bound_to_its_daemon(server: FleetServer) -> None:
    async with server.worker(targets={"lxd": "fingerprint-a"}) as one, server.worker(targets={"lxd": "b"}) as other:
        await one.connect()
        with pytest.raises(SessionRefused) as refused:
            await other.connect()
        assert (refused.value.code, refused.value.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "TARGET_IDENTITY",
        )


async def test_a_worker_that_does_not_listen_is_cut_off(tmp_path: Path) -> None:
    async with fleet_server(tmp_path, outbox_limit=200) as server, server.worker() as worker:
        deaf = await worker.open(pb.WorkRequest(hello=worker.hello()), listen=False)
        await talk_on(deaf)
        deaf.listen()
        error = await deaf.until_ended()
        assert error is not None
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "SLOW_CONSUMER")
        assert server.sessions.fleet.connection(worker.session_id) is None
        # It may come back, and listen.
        stream = await worker.connect(credits=1)
        (task,) = await server.submit()
        assert (await stream.next_assignment()).task.id == task.id


async def test_a_hanging_write_ends_the_connection_and_the_worker_learns_of_it(tmp_path: Path) -> None:
    """More is on its way to a worker that does not read than grpc takes for it."""
    limits = ConcurrencyLimits(target=1000)
    async with fleet_server(tmp_path, outbox_limit=200, limits=limits) as server, server.worker() as worker:
        await server.submit(count=300, arguments=bytes(60_000))
        deaf = await worker.open(pb.WorkRequest(hello=worker.hello(), credits=300), listen=False)

        waiting: list[int] = []

        async def hangs() -> bool:
            """Everything is assigned, and what waits to be told has not become less for a while."""
            connection = server.sessions.fleet.connection(worker.session_id)
            if connection is None or len(connection.held) < 300:
                return False
            waiting.append(len(connection.outbox))
            return len(waiting) > 10 and waiting[-1] == waiting[-10] > 0

        await server.until(hangs, within=30)
        await deaf.say(reports=made_up(250))

        async def gone() -> bool:
            return not server.sessions._streams and server.sessions.fleet.connection(worker.session_id) is None

        await server.until(gone)
        assert not deaf.call.done()
        deaf.listen()
        error = await deaf.until_ended()
        assert error is not None
        assert error.reason == "SLOW_CONSUMER"


async def talk_on(deaf: Stream) -> None:
    """Report what never was, until the server has had enough."""
    async with asyncio.timeout(30):
        for batch in range(10_000):
            try:
                await deaf.say(reports=made_up(150, of=f"{batch}"))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return
            if deaf.call.done():
                return


def made_up(count: int, *, of: str = "") -> list[pb.Report]:
    return [pb.Report(attempt=ref(f"made-up-{of}-{n}", 1), outcome=pb.OUTCOME_OK) for n in range(count)]
