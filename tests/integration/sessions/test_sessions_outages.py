"""The database away for a while: nothing that a worker said is lost, and nobody loses an attempt by it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from longshore.server.model.errors import StoreUnavailable
from longshore.server.model.values import State
from longshore.server.store.commands import WakeParked
from longshore.v1 import worker_service_pb2 as pb
from tests.support.servers.fleetserver import FleetServer, fleet_server
from tests.support.workers.fakeworker import FakeWorker, SessionRefused, ref


@contextmanager
def unwritable(database: Path) -> Iterator[None]:
    """Somebody else holds the lock, for longer than the store waits for it."""
    other = sqlite3.connect(database, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()


async def until_unwritable(server: FleetServer) -> None:
    """Ask for a commit until one is refused."""
    while True:
        try:
            await server.store.run(WakeParked(target="nowhere", project="", instance="", running=True))
        except StoreUnavailable:
            return


@pytest.mark.slow
async def test_reports_and_grants_wait_for_the_database_and_are_then_answered(
    server: FleetServer, worker: FakeWorker
) -> None:
    stream = await worker.connect(credits=2)
    (job,) = await server.submit()
    (push,) = await server.submit_pushes("/etc/motd")
    one, two = await stream.next_assignment(), await stream.next_assignment()
    assert {one.task.id, two.task.id} == {job.id, push.id}
    with unwritable(server.database):
        await stream.say(
            reports=[pb.Report(attempt=ref(job.id, 1), outcome=pb.OUTCOME_OK)],
            grant_requests=[pb.GrantRequest(attempt=ref(push.id, 1), temp="/etc/.t")],
        )
        await until_unwritable(server)
        assert (stream.acks, stream.grants) == ([], [])
    await stream.until(lambda: stream.acks and stream.grants, within=30)
    assert stream.acks[0].accepted
    assert stream.grants[0].granted
    assert (await server.task(job.id)).status.state is State.SUCCEEDED
    assert (await server.task(push.id)).status.state is State.COMMITTING


@pytest.mark.slow
async def test_an_outage_longer_than_the_lease_loses_no_attempt(tmp_path: Path) -> None:
    async with fleet_server(tmp_path, lease=1.5) as server, server.worker() as worker:
        stream = await worker.connect(credits=1)
        (task,) = await server.submit()
        assignment = await stream.next_assignment()
        begun = server.clock.ticks()
        sequence = 0

        async def beat() -> None:
            nonlocal sequence
            sequence += 1
            await stream.heartbeat(sequence)

        with unwritable(server.database):
            while server.clock.ticks() < begun + 5.0:
                await beat()
                with pytest.raises(AssertionError, match="not within"):
                    # The ends of leases are what is waited for here: nothing may come.
                    await stream.until(lambda: stream.revocations or stream.ended, within=0.4)
        while stream.heartbeat_ack == 0:
            await beat()
            await stream.until(lambda: stream.heartbeat_ack == sequence or stream.heartbeat_ack, within=10)
        assert (await server.task(task.id)).status.state is State.RUNNING
        assert (await stream.report(assignment)).accepted
        assert await server.ends(task.id) == ["OK"]


@pytest.mark.slow
async def test_a_worker_cannot_connect_meanwhile_and_can_afterwards(server: FleetServer, worker: FakeWorker) -> None:
    with unwritable(server.database):
        with pytest.raises(SessionRefused) as refused:
            await worker.connect()
        assert refused.value.reason == "STORE_UNAVAILABLE"
    stream = await worker.connect(credits=1)
    (task,) = await server.submit()
    assert (await stream.next_assignment()).task.id == task.id


@pytest.mark.slow
async def test_a_goodbye_waits_for_the_reports_before_it(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    (task,) = await server.submit()
    await stream.next_assignment()
    with unwritable(server.database):
        report = pb.Report(attempt=ref(task.id, 1), outcome=pb.OUTCOME_OK)
        await stream.say(reports=[report], goodbye=pb.Goodbye())
        await stream.call.done_writing()
        await until_unwritable(server)
    assert await stream.until_ended() is None
    assert [ack.accepted for ack in stream.acks] == [True]
    assert (await server.task(task.id)).status.state is State.SUCCEEDED
    assert await server.store.sessions() == []
