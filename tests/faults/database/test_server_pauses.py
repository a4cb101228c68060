"""P6, P9: a server that stands still or is killed costs nobody an attempt, and nobody waits for its clock after it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from longshore.client import Client, job_spec, push_spec
from longshore.v1 import task_pb2
from tests.support.servers.processes import ServerProcess, WorkerProcess, eventually
from tests.support.servers.stage import ended

LEASE = 2.0

HANDLERS = """
from pathlib import Path
from longshore.worker import Context, Registry

registry = Registry()

@registry.handler("wait")
def wait(context: Context) -> None:
    Path(__file__).with_name("begun").touch()
    while not Path(__file__).with_name("go").exists():
        context.sleep(0.05)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    (tmp_path / "handlers_of_pauses.py").write_text(HANDLERS)
    with ServerProcess(tmp_path, "--lease", f"{LEASE:g}s") as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server=server.address, token_file=server.token_file) as client:
        yield client


@pytest.fixture
def worker(server: ServerProcess, tmp_path: Path) -> Iterator[WorkerProcess]:
    environment = {"PYTHONPATH": str(tmp_path)}
    targets = [f"default=directory:{tmp_path / 'instances'}"]
    with WorkerProcess(
        server, "--handlers", "handlers_of_pauses:registry", targets=targets, environment=environment
    ) as worker:
        yield worker


def test_a_server_paused_for_longer_than_the_lease_revokes_no_session(
    server: ServerProcess, client: Client, worker: WorkerProcess, tmp_path: Path
) -> None:
    (task,) = client.submit(spec=job_spec("wait"))
    eventually(lambda: client.get(task.id).state == task_pb2.TASK_STATE_RUNNING, what="it runs")
    for number in range(6):
        time.sleep(0.5 + 0.07 * number)  # so that it happens at all distances from the last heartbeat
        server.stop()
        eventually(server.stopped, what="the server stands still")
        time.sleep(1.3 * LEASE)  # the fault itself: leases end by time alone
        server.resume()
        eventually(lambda: client.get(task.id), what="it answers")
    (tmp_path / "go").touch()
    assert ended(client, task.id).state == task_pb2.TASK_STATE_SUCCEEDED
    assert [attempt.outcome for attempt in client.attempts(task.id)] == ["OK"]
    assert not list(server.events("session_lost"))


def test_tasks_that_came_due_during_an_outage_run_after_it(
    server: ServerProcess, client: Client, worker: WorkerProcess, tmp_path: Path
) -> None:
    (tmp_path / "instances" / "web").mkdir(parents=True)
    (task,) = client.upload(b"x", spec=push_spec("web/f", not_before=3.0))
    assert task.state == task_pb2.TASK_STATE_SCHEDULED
    server.kill()
    time.sleep(3.0)  # it comes due meanwhile
    server.start()
    eventually(lambda: client.get(task.id).done, within=10, what="it is delivered soon after the start")


def connected_more_often(server: ServerProcess, times: int) -> bool:
    """Workers have said hello more than `times` times, over all lives of the server."""
    return len(list(server.events("worker_connected"))) > times


def test_workers_reconnect_after_a_long_outage_before_their_leases_end(
    server: ServerProcess, client: Client, worker: WorkerProcess, tmp_path: Path
) -> None:
    (task,) = client.submit(spec=job_spec("wait"))
    # RUNNING is committed before the worker hears of it, and an assignment that is lost on its way is another story.
    eventually((tmp_path / "begun").exists, what="it runs")
    for _ in range(3):
        known = len(list(server.events("worker_connected")))
        server.kill()
        time.sleep(7.0)  # the worker has tried often in vain, and takes its time between two tries
        server.start()
        eventually(partial(connected_more_often, server, known), what="the worker is back")
    (tmp_path / "go").touch()
    assert ended(client, task.id).state == task_pb2.TASK_STATE_SUCCEEDED
    assert [attempt.outcome for attempt in client.attempts(task.id)] == ["OK"]
