"""P8 over servers: a cancel at one reaches the worker of another, in whatever state the task is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from longshore.client import job_spec
from longshore.server.model.values import State
from longshore.v1 import task_pb2
from tests.support.servers.cluster import ServerFleet, fleet_of
from tests.support.servers.processes import eventually, temps_under
from tests.support.stores.postgres import Cluster


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, postgres: Cluster) -> Iterator[ServerFleet]:
    """Two servers; the only worker is at the second."""
    root = tmp_path_factory.mktemp("cancel")
    with (
        fleet_of(root, postgres, "--lease", "4s", "--cancel-grace", "3s") as fleet,
        fleet.handlers("--concurrency", "8", at=[1]),
    ):
        yield fleet
        assert fleet.discrepancies() == []


@pytest.fixture
def file(tmp_path: Path) -> StringValue:
    """The file that a job of this test waits for."""
    return StringValue(value=str(tmp_path / "go"))


def test_while_running(fleet: ServerFleet, file: StringValue) -> None:
    (task,) = fleet[0].client.submit(spec=job_spec("until", file))
    fleet[0].reaches(task.id, task_pb2.TASK_STATE_RUNNING)
    assert fleet[0].client.cancel(task.id).state == task_pb2.TASK_STATE_CANCELLING
    fleet[1].reaches(task.id, task_pb2.TASK_STATE_CANCELLED)
    assert fleet[0].outcomes(task.id) == ["STOPPED"]
    assert fleet.history(task.id) == [State.QUEUED, State.RUNNING, State.CANCELLING, State.CANCELLED]


def test_a_cancel_while_committing_is_too_late(fleet: ServerFleet, file: StringValue, tmp_path: Path) -> None:
    (task,) = fleet[0].client.submit(spec=job_spec("granted", file))
    (tmp_path / "go").touch()
    eventually((tmp_path / "go.granted").exists, what="it has its grant")
    answer = fleet[0].client.cancel(task.id)
    assert (answer.state, answer.cancel_requested) == (task_pb2.TASK_STATE_COMMITTING, True)
    (tmp_path / "go.granted").unlink()
    done = fleet[0].reaches(task.id, task_pb2.TASK_STATE_SUCCEEDED)
    assert done.cancel_requested


def test_while_queued_and_blocked(fleet: ServerFleet, file: StringValue, tmp_path: Path) -> None:
    fleet[1].client.pause_queue("still", create=True)
    first, second, third = (fleet[number % 2].push(b"%d" % number, "web/etc/q", queue="still") for number in range(3))
    assert fleet[0].client.get(second).blocked_by == first
    assert fleet[0].client.cancel(second).state == task_pb2.TASK_STATE_CANCELLED
    assert fleet[1].client.cancel(first).state == task_pb2.TASK_STATE_CANCELLED
    fleet[0].client.resume_queue("still")
    fleet[0].reaches(third, task_pb2.TASK_STATE_SUCCEEDED)
    assert (fleet.instances / "web" / "etc" / "q").read_bytes() == b"2"
    assert fleet.history(first)[-1] is fleet.history(second)[-1] is State.CANCELLED


def test_while_parked(fleet: ServerFleet) -> None:
    task_id = fleet[1].push(b"new", "ghost/etc/motd", when_absent=task_pb2.WHEN_ABSENT_WAIT)
    parked = fleet[0].reaches(task_id, task_pb2.TASK_STATE_SCHEDULED)
    assert parked.wait_reason == task_pb2.WAIT_REASON_INSTANCE_ABSENT
    assert fleet[0].client.cancel(task_id).state == task_pb2.TASK_STATE_CANCELLED
    fleet.make_instances("ghost", folder="etc")
    # A later task is delivered, and this one is not.
    fleet[0].reaches(fleet[0].push(b"later", "ghost/etc/later"), task_pb2.TASK_STATE_SUCCEEDED)
    assert fleet[1].client.get(task_id).state == task_pb2.TASK_STATE_CANCELLED
    assert [path.name for path in (fleet.instances / "ghost" / "etc").iterdir()] == ["later"]


def test_a_worker_that_was_cut_off_learns_of_the_cancel_at_another_server(fleet: ServerFleet, tmp_path: Path) -> None:
    """Its own session moves: stopped while its server forgets it, it hears of the cancel when it is back."""
    fleet.make_instances("cut", folder="etc")
    east = f"east=directory:{fleet.instances}"
    accident = fleet[0].faulty("staged", "stop", targets=[east], address=fleet.servers[0].address, name="cut")
    with accident as zombie:
        task_id = fleet[1].push(b"new", "east:cut/etc/motd")
        eventually(zombie.stopped, what="the file is verified and no grant asked for")
        assert fleet[1].client.cancel(task_id).state == task_pb2.TASK_STATE_CANCELLING
        fleet[1].reaches(task_id, task_pb2.TASK_STATE_CANCELLED)
        zombie.resume()
        eventually(lambda: not temps_under(fleet.instances / "cut"), what="its temp is removed")
        assert not (fleet.instances / "cut" / "etc" / "motd").exists()
    assert fleet[0].outcomes(task_id) in (["LOST"], ["TIMED_OUT"])
