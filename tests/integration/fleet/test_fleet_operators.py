"""An operator's action at one server holds at all: pause, drain, debts, settling."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from longshore.client import job_spec, push_spec
from longshore.server.model.values import State
from longshore.v1 import admin_service_pb2, task_pb2
from tests.support.servers.cluster import ServerFleet, fleet_of
from tests.support.servers.processes import eventually, temps_under
from tests.support.servers.stage import Stage
from tests.support.stores.postgres import Cluster

OLD, NEW = b"old\n", b"new\n"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, postgres: Cluster) -> Iterator[ServerFleet]:
    root = tmp_path_factory.mktemp("operators")
    with fleet_of(root, postgres, "--lease", "2s", "--cancel-grace", "2s") as fleet:
        yield fleet
        assert fleet.discrepancies() == []


def test_a_queue_is_paused_at_one_server_and_resumed_at_another(fleet: ServerFleet) -> None:
    fleet[0].client.pause_queue("nightly", create=True)
    with fleet.worker(at=[1]):
        held = fleet[1].push(NEW, "web/etc/held", queue="nightly")
        fleet[0].reaches(fleet[0].push(NEW, "web/etc/other"), task_pb2.TASK_STATE_SUCCEEDED)
        assert fleet[1].client.get(held).state == task_pb2.TASK_STATE_QUEUED
        fleet[1].client.resume_queue("nightly")
        fleet[0].reaches(held, task_pb2.TASK_STATE_SUCCEEDED)


def test_a_worker_is_drained_through_another_server(fleet: ServerFleet) -> None:
    with fleet.worker(at=[1], name="drained") as worker:
        (session,) = eventually(lambda: [one for one in fleet[0].client.workers() if one.name == "drained"])
        assert session.connected
        assert fleet[0].client.drain_worker(session.session_id).draining
        assert worker.process.wait(20) == 0


def left_by(stage: Stage, worker: str) -> list[admin_service_pb2.TargetStats]:
    """Targets that this worker served last."""
    return [row for row in stage.client.stats().targets if row.last_worker == worker]


def test_every_server_knows_why_a_task_waits_and_its_targets_last_worker(fleet: ServerFleet) -> None:
    fleet[0].client.pause_queue("quiet", create=True)
    there = push_spec("far:web/etc/there", queue="quiet")

    def waits(number: int, task_id: str) -> str:
        return task_pb2.WaitReason.Name(fleet[number].client.get(task_id).wait_reason).removeprefix("WAIT_REASON_")

    [task] = fleet[0].client.upload(NEW, spec=there)
    assert [waits(number, task.id) for number in (0, 1)] == ["NO_WORKER", "NO_WORKER"]
    with fleet.worker("--concurrency", "3", at=[1], name="far", targets=[f"far=directory:{fleet.instances}"]) as worker:
        eventually(lambda: waits(0, task.id) == "QUEUE_PAUSED", what="the other server's worker is known")
        assert waits(1, task.id) == "QUEUE_PAUSED"
        said = "SELECT credits FROM remarks JOIN sessions ON id = session_id WHERE worker = 'far' AND ended_at IS NULL"
        eventually(lambda: fleet.rows(said) == [(3,)], what="what it takes at once is known to all")
        worker.terminate()
    for one in (fleet[0], fleet[1]):
        [row] = eventually(partial(left_by, one, "far"), what="the end of its session")
        assert (row.target, row.problem) == ("far", "no worker serves this target")
        ended = {each.name: each.end for each in one.client.workers(include_ended=True)}
        assert ended["far"] == admin_service_pb2.SESSION_END_LEFT
    fleet[1].client.cancel(task.id)


def why(stage: Stage, task_id: str) -> tuple[str, str]:
    task = stage.client.get(task_id)
    return task_pb2.WaitReason.Name(task.wait_reason).removeprefix("WAIT_REASON_"), task.wait_detail


def until(stage: Stage, file: Path) -> str:
    """A task that runs until the file exists."""
    [task] = stage.client.submit(spec=job_spec("until", StringValue(value=str(file)), target="default"))
    return task.id


BUSY = ("NO_CREDIT", "the worker that serves it is busy with 1 task")


def is_busy(stage: Stage, task_id: str) -> bool:
    """The task waits for the only worker, which holds something."""
    return why(stage, task_id) == BUSY


def test_every_server_tells_a_busy_worker_from_one_that_is_next(fleet: ServerFleet, tmp_path: Path) -> None:
    """The database tells which tasks a worker of another server holds, and the worker says how many it could hold."""
    go_on = tmp_path / "go on"
    with fleet.handlers("--concurrency", "1", at=[1], name="one"):
        running = until(fleet[0], go_on)
        fleet[0].reaches(running, task_pb2.TASK_STATE_RUNNING)
        waiting = until(fleet[0], go_on)
        for stage in (fleet[0], fleet[1]):
            eventually(partial(is_busy, stage, waiting), what=f"{BUSY}")
        go_on.touch()
        fleet[0].reaches(waiting, task_pb2.TASK_STATE_SUCCEEDED)


def test_a_worker_that_empties_for_a_task_that_runs_alone_has_no_room(fleet: ServerFleet, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with fleet[1].faulty("staged", "kill") as worker:
        alone = fleet[1].push(NEW, "web/etc/alone", queue="solo")
        eventually(lambda: not worker.running, what="the worker is dead")
        fleet[1].client.pause_queue("solo")
        fleet[1].reaches(alone, task_pb2.TASK_STATE_QUEUED)
    with fleet.handlers("--concurrency", "2", at=[1], name="two"):
        running = until(fleet[1], go_on)
        fleet[1].reaches(running, task_pb2.TASK_STATE_RUNNING)
        fleet[1].client.resume_queue("solo")
        eventually(lambda: list(fleet.servers[1].events("emptying_for_solo_task")), what="it finishes what it holds")
        later = until(fleet[1], go_on)
        assert why(fleet[1], alone)[0] == "NO_IDLE_WORKER"
        eventually(partial(is_busy, fleet[1], later), what=f"{BUSY}")
        go_on.touch()
        for task_id in (alone, later):
            fleet[1].reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)


def test_a_debt_of_one_server_is_paid_at_another(fleet: ServerFleet) -> None:
    with fleet[0].faulty("staged", "kill") as worker:
        task_id = fleet[1].push(NEW, "web/etc/debt")
        eventually(lambda: not worker.running, what="the worker is dead")
        fleet[1].client.cancel(task_id)
        fleet[0].reaches(task_id, task_pb2.TASK_STATE_CANCELLED)
    assert temps_under(fleet.instances)
    assert fleet.rows("SELECT asked FROM debts WHERE task_id = %s", task_id) == [(0,)]
    with fleet.worker(at=[0], name="one"), fleet.worker(at=[1], name="two"):
        eventually(lambda: not temps_under(fleet.instances), what="the temp is removed")
        fleet[0].reaches(fleet[0].push(OLD), task_pb2.TASK_STATE_SUCCEEDED)
        fleet[1].reaches(fleet[1].push(NEW), task_pb2.TASK_STATE_SUCCEEDED)
    # Both servers may have had it paid. It is asked for once more all the same, later: its maker might have slept.
    assert fleet.rows("SELECT asked FROM debts WHERE task_id = %s", task_id) == [(1,)]


def test_a_commit_of_one_server_is_settled_at_another(fleet: ServerFleet) -> None:
    fleet[0].mark.unlink(missing_ok=True)
    with fleet[0].faulty("renamed", "kill"):
        task_id = fleet[1].push(NEW, "web/etc/settled")
        fleet[0].reaches(task_id, task_pb2.TASK_STATE_SETTLING)
    with fleet.worker(at=[1]):
        fleet[0].reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)
    assert fleet[1].outcomes(task_id) == ["LOST", "SETTLED_LANDED"]


def test_a_task_that_failed_at_one_server_can_be_retried_at_another(fleet: ServerFleet) -> None:
    with fleet.worker(at=[0]):
        failed = fleet[1].push(b"x" * 300_000, "late/etc/motd")
        fleet[0].reaches(failed, task_pb2.TASK_STATE_FAILED)
        fleet.make_instances("late", folder="etc")
        again = fleet[0].client.retry(failed)
        done = fleet[1].reaches(again.id, task_pb2.TASK_STATE_SUCCEEDED)
    assert (done.retry_of, fleet.history(failed)[-1]) == (failed, State.FAILED)
