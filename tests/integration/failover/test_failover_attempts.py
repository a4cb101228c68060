"""A server that dies, hangs or leaves costs no attempt: its sessions go on at another one within their lease."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from longshore.client import Client, TaskFilter, job_spec
from longshore.v1 import task_pb2
from tests.support.servers.cluster import ServerFleet, fleet_of
from tests.support.servers.processes import Process, ServerProcess, eventually
from tests.support.stores.postgres import Cluster
from tests.support.workers.waiting_handlers import mark

ATTEMPTS = 20


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, postgres: Cluster) -> Iterator[ServerFleet]:
    """Two servers, their lease as it is by default."""
    with fleet_of(tmp_path_factory.mktemp("failover"), postgres) as fleet:
        yield fleet


def in_state(client: Client, state: task_pb2.TaskState.ValueType, ids: list[str]) -> bool:
    """All of these are, and there is no other."""
    return sorted(task.id for task in client.list(filter=TaskFilter(states=[state]))) == sorted(ids)


def server_of(worker: Process, fleet: ServerFleet) -> ServerProcess:
    """The one that the worker's session is with."""
    *_, last = worker.events("session_welcome")
    return next(server for server in fleet.servers if server.address == last["server"])


def die(server: ServerProcess) -> None:
    server.kill()


def hang(server: ServerProcess) -> None:
    server.stop()


def leave(server: ServerProcess) -> None:
    server.process.terminate()


def mend(server: ServerProcess) -> None:
    """As it was, however it is now."""
    if server.running:
        server.resume()
        server.terminate()
    server.start()


@pytest.mark.parametrize("trouble", [die, hang, leave])
def test_twenty_attempts_outlive_their_server(
    fleet: ServerFleet, tmp_path: Path, trouble: Callable[[ServerProcess], None]
) -> None:
    over = tmp_path / "over"
    argument = StringValue(value=str(over))
    with fleet.client() as client, fleet.handlers("--concurrency", "20", name=f"worker-{trouble.__name__}") as worker:
        ids = [client.submit(spec=job_spec("until", argument))[0].id for _ in range(ATTEMPTS)]
        eventually(lambda: in_state(client, task_pb2.TASK_STATE_RUNNING, ids), what="all of them run")
        eventually(lambda: all(mark(over, task_id).exists() for task_id in ids), what="the worker has begun them all")
        first = server_of(worker, fleet)
        trouble(first)
        try:
            eventually(lambda: server_of(worker, fleet) is not first, what="the session is with the other")
            *_, welcome = worker.events("session_welcome")
            assert welcome["held"] == ATTEMPTS
            over.touch()
            for task_id in ids:
                client.wait(task_id)
                (attempt,) = client.attempts(task_id)
                assert (attempt.number, attempt.outcome) == (1, "OK")
        finally:
            mend(first)
        assert not list(worker.events("attempt_revoked"))
