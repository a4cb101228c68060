"""Work that time brings is done once, however many servers look at the clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from longshore.client import job_spec
from longshore.server.model.values import State
from longshore.v1 import task_pb2
from tests.support.servers.cluster import ServerFleet, fleet_of
from tests.support.servers.processes import eventually
from tests.support.stores.postgres import Cluster
from tests.support.workers.waiting_handlers import mark

MANY = 20


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, postgres: Cluster) -> Iterator[ServerFleet]:
    root = tmp_path_factory.mktemp("janitor")
    with fleet_of(root, postgres, "--lease", "2s", servers=3) as fleet:
        yield fleet
        assert fleet.discrepancies() == []


def submitted(fleet: ServerFleet, **spec: float) -> list[str]:
    return [fleet[n % 3].client.submit(spec=job_spec("none", **spec))[0].id for n in range(MANY)]  # type: ignore[arg-type]


def lost_sessions(fleet: ServerFleet) -> list[str]:
    """Sessions whose loss a server has logged, once for each record."""
    return [record["session_id"] for server in fleet.servers for record in server.events("session_lost")]


def test_tasks_expire_once(fleet: ServerFleet) -> None:
    ids = submitted(fleet, expire_after=0.5)
    eventually(lambda: all(fleet[0].client.get(one).done for one in ids), what="all have expired")
    assert all(fleet.history(one) == [State.QUEUED, State.EXPIRED] for one in ids)


def test_tasks_come_due_once(fleet: ServerFleet) -> None:
    ids = submitted(fleet, not_before=0.5)
    queued = task_pb2.TASK_STATE_QUEUED
    eventually(lambda: all(fleet[1].client.get(one).state == queued for one in ids), what="all are due")
    assert all(fleet.history(one) == [State.SCHEDULED, State.QUEUED] for one in ids)
    for one in ids:
        fleet[2].client.cancel(one)


def test_a_time_out_ends_an_attempt_once(fleet: ServerFleet, tmp_path: Path) -> None:
    never = StringValue(value=str(tmp_path / "never"))
    with fleet.handlers("--concurrency", "8", at=[2]):
        spec = job_spec("until", never, run_timeout=1.0, attempt_limit=1)
        ids = [fleet[number % 3].client.submit(spec=spec)[0].id for number in range(6)]
        for one in ids:
            assert fleet[0].reaches(one, task_pb2.TASK_STATE_FAILED).error.reason == "TIMED_OUT"
    assert all(fleet.history(one) == [State.QUEUED, State.RUNNING, State.FAILED] for one in ids)
    assert all(fleet[1].outcomes(one) == ["TIMED_OUT"] for one in ids)


def test_a_lost_worker_is_noticed_once(fleet: ServerFleet, tmp_path: Path) -> None:
    go = StringValue(value=str(tmp_path / "go"))
    with fleet.handlers("--concurrency", "8", at=[1]) as worker:
        ids = [fleet[number % 3].client.submit(spec=job_spec("until", go))[0].id for number in range(6)]
        for one in ids:
            fleet[0].reaches(one, task_pb2.TASK_STATE_RUNNING)
        eventually(
            lambda: all(mark(tmp_path / "go", one).exists() for one in ids), what="the worker has begun them all"
        )
        worker.kill()
        for one in ids:
            fleet[2].reaches(one, task_pb2.TASK_STATE_QUEUED)
        (tmp_path / "go").touch()
        # A server writes the record a moment after its commit.
        eventually(lambda: lost_sessions(fleet), what="the record of the loss")
        worker.start()
        for one in ids:
            done = fleet[0].reaches(one, task_pb2.TASK_STATE_SUCCEEDED)
            assert (done.attempt, done.crashes) == (2, 1)
    lost = lost_sessions(fleet)
    assert len(lost) == len(set(lost)), "each by one server"
    # The second run is alone on its worker: claimed, and then begun.
    expected = [State.QUEUED, State.RUNNING, State.QUEUED, State.RUNNING, State.RUNNING, State.SUCCEEDED]
    assert all(fleet.history(one) == expected for one in ids)
