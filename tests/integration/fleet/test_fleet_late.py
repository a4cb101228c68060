"""P6: what a server says or reads late, after the worker has gone to another one, changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.client import job_spec
from longshore.server.model.values import State
from longshore.v1 import worker_service_pb2 as pb
from tests.support.servers.cluster import ServerFleet, fleet_of
from tests.support.stores.postgres import Cluster
from tests.support.workers.fakeworker import FakeWorker, Stream

SESSION = "session-that-moves-0001"


@pytest.fixture
def fleet(tmp_path: Path, postgres: Cluster) -> Iterator[ServerFleet]:
    with fleet_of(tmp_path, postgres, "--lease", "6s") as fleet:
        yield fleet
        assert fleet.discrepancies() == []


def worker_of(fleet: ServerFleet, number: int) -> FakeWorker:
    """The same worker, at that server."""
    server = fleet.servers[number]
    return FakeWorker(server.address, token=server.token, session_id=SESSION)


async def acknowledged(stream: Stream, sequence: int) -> None:
    """A sign of life is durable: the connection has the session."""
    await stream.heartbeat(sequence)
    await stream.until(lambda: stream.heartbeat_ack >= sequence)


async def test_a_hello_that_a_server_reads_late_takes_nothing_away(fleet: ServerFleet) -> None:
    async with worker_of(fleet, 0) as here, worker_of(fleet, 1) as there:
        # It is stopped when it has noted what a new connection says: inside a transaction it would hold up the others.
        await acknowledged(await here.connect(epoch=1), 1)
        fleet.servers[0].stop()
        late = await here.open(pb.WorkRequest(hello=here.hello(epoch=2)))  # waits in its socket
        stream = await there.connect(epoch=3, credits=1)
        (task,) = fleet[1].client.submit(spec=job_spec("job"))
        assignment = await stream.next_assignment()
        fleet.servers[0].resume()
        refusal = await late.until_ended()
        assert refusal is not None
        assert refusal.reason == "EPOCH_SUPERSEDED"
        await acknowledged(stream, 1)
        assert (await stream.report(assignment)).accepted
    assert fleet.history(task.id) == [State.QUEUED, State.RUNNING, State.SUCCEEDED]
