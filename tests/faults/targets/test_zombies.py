"""P6, P8 and settling: a worker that stands still or dies at the worst moment.

Real processes, a real directory target, SIGSTOP and SIGKILL at chosen points (tests/support/workers/faulty_worker.py).
In each case: no rename without a grant, at most one outcome, and the task says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.v1 import admin_service_pb2, task_pb2
from tests.support.servers.processes import eventually, temps_under
from tests.support.servers.stage import Stage, staged

OLD, NEW, NEWER = b"old content\n", b"new content\n", b"even newer content\n"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path, "--lease", "2s") as stage:
        file_of(stage).write_bytes(OLD)
        yield stage


def file_of(stage: Stage) -> Path:
    """The destination of every task here."""
    return stage.instances / "web" / "etc" / "motd"


@pytest.mark.cluster("P6", "P7", "P12")
def test_a_worker_that_slept_before_its_grant_gets_none(stage: Stage) -> None:
    with stage.faulty("staged", "stop") as zombie:
        task_id = stage.push(NEW)
        eventually(zombie.stopped, what="the worker stands still")
        with stage.worker():
            done = stage.reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)
            assert done.attempt == 2
            assert done.crashes == 1
            file_of(stage).write_bytes(NEWER)  # whoever renames without a grant now destroys this
            zombie.resume()
            eventually(lambda: not temps_under(stage.instances), what="the zombie's temp is removed")
            assert file_of(stage).read_bytes() == NEWER
            assert stage.outcomes(task_id) == ["LOST", "OK"]
            # It lives on and works again.
            stage.reaches(stage.push(NEW), task_pb2.TASK_STATE_SUCCEEDED)
    assert file_of(stage).read_bytes() == NEW


def test_a_cancelled_task_stays_undelivered_though_its_worker_slept(stage: Stage) -> None:
    with stage.faulty("staged", "stop") as zombie:
        task_id = stage.push(NEW)
        eventually(zombie.stopped, what="the worker stands still")
        assert stage.client.cancel(task_id).state == task_pb2.TASK_STATE_CANCELLING
        stage.reaches(task_id, task_pb2.TASK_STATE_CANCELLED)
        zombie.resume()
        eventually(lambda: not temps_under(stage.instances), what="the zombie's temp is removed")
    assert file_of(stage).read_bytes() == OLD


def test_settled_removed_a_granted_rename_that_was_slept_over_never_happens(stage: Stage) -> None:
    with stage.faulty("granted", "stop") as zombie:
        task_id = stage.push(NEW)
        eventually(zombie.stopped, what="the worker stands still")
        stage.reaches(task_id, task_pb2.TASK_STATE_SETTLING)
        with stage.worker():
            done = stage.reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)
            assert stage.outcomes(task_id) == ["LOST", "SETTLED_REMOVED", "OK"]
            assert done.attempt == 3
            file_of(stage).write_bytes(NEWER)
            zombie.resume()
            # The zombie's rename fails, since its source is gone; it comes back and takes work again.
            other = stage.push(NEW)
            stage.reaches(other, task_pb2.TASK_STATE_SUCCEEDED)
    assert file_of(stage).read_bytes() == NEW
    assert not temps_under(stage.instances)


@pytest.mark.cluster("P6", "P8")
def test_settled_removed_with_a_cancel_is_cancelled_and_untouched(stage: Stage) -> None:
    with stage.faulty("granted", "stop") as zombie:
        task_id = stage.push(NEW)
        eventually(zombie.stopped, what="the worker stands still")
        answer = stage.client.cancel(task_id)
        assert answer.state in (task_pb2.TASK_STATE_COMMITTING, task_pb2.TASK_STATE_SETTLING)
        assert answer.cancel_requested
        with stage.worker():
            stage.reaches(task_id, task_pb2.TASK_STATE_CANCELLED)
            zombie.resume()
            stage.reaches(stage.push(NEWER), task_pb2.TASK_STATE_SUCCEEDED)
    assert file_of(stage).read_bytes() == NEWER
    assert stage.outcomes(task_id) == ["LOST", "SETTLED_REMOVED"]


@pytest.mark.cluster("P6", "P7")
def test_settled_landed_a_worker_killed_right_after_its_rename_has_delivered(stage: Stage) -> None:
    with stage.faulty("renamed", "kill"):
        task_id = stage.push(NEW)
        stage.reaches(task_id, task_pb2.TASK_STATE_SETTLING)
        assert file_of(stage).read_bytes() == NEW
        with stage.worker():
            stage.reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)
    assert stage.outcomes(task_id) == ["LOST", "SETTLED_LANDED"]
    assert file_of(stage).read_bytes() == NEW


def test_settled_landed_wins_over_a_cancel_that_came_too_late(stage: Stage) -> None:
    with stage.faulty("renamed", "kill"):
        task_id = stage.push(NEW)
        stage.reaches(task_id, task_pb2.TASK_STATE_SETTLING)
        assert stage.client.cancel(task_id).cancel_requested
        with stage.worker():
            done = stage.reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)
    assert done.cancel_requested
    assert file_of(stage).read_bytes() == NEW


def lost_with_its_temp(stage: Stage) -> str:
    """Lose a worker after the grant and before the rename, and the temp too. Returns the id of the task."""
    with stage.faulty("granted", "stop") as zombie:
        task_id = stage.push(NEW)
        eventually(zombie.stopped, what="the worker stands still")
        zombie.kill()
    for temp in temps_under(stage.instances):
        temp.unlink()
    return task_id


def test_settled_neither_delivers_again_or_reports_an_unknown_outcome(stage: Stage) -> None:
    task_id = lost_with_its_temp(stage)
    stage.reaches(task_id, task_pb2.TASK_STATE_SETTLING)
    with stage.worker():
        stage.reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)
    assert stage.outcomes(task_id) == ["LOST", "SETTLED_NEITHER", "OK"]
    assert file_of(stage).read_bytes() == NEW


def test_settled_neither_with_a_cancel_fails_with_an_unknown_outcome(stage: Stage) -> None:
    task_id = lost_with_its_temp(stage)
    stage.client.cancel(task_id)
    with stage.worker():
        done = stage.reaches(task_id, task_pb2.TASK_STATE_FAILED)
    assert done.error.reason == "OUTCOME_UNKNOWN"
    assert file_of(stage).read_bytes() == OLD


@pytest.mark.cluster("P10")
def test_followers_wait_while_the_head_is_settled(stage: Stage) -> None:
    with stage.faulty("granted", "stop") as zombie:
        first = stage.push(NEW)
        second = stage.push(NEWER)
        eventually(zombie.stopped, what="the worker stands still")
        stage.reaches(first, task_pb2.TASK_STATE_SETTLING)
        blocked = stage.client.get(second)
        assert blocked.state == task_pb2.TASK_STATE_BLOCKED
        assert blocked.blocked_by == first
        with stage.worker():
            stage.reaches(second, task_pb2.TASK_STATE_SUCCEEDED)
            zombie.resume()
            assert stage.client.get(first).state == task_pb2.TASK_STATE_SUCCEEDED
    assert file_of(stage).read_bytes() == NEWER


def test_no_worker_no_answer_settling_waits_and_an_operator_can_end_it(stage: Stage) -> None:
    with stage.faulty("granted", "kill"):
        task_id = stage.push(NEW)
        stage.reaches(task_id, task_pb2.TASK_STATE_SETTLING)
    settled = stage.client.settle(task_id, settlement=admin_service_pb2.SETTLEMENT_REMOVED)
    assert settled.state == task_pb2.TASK_STATE_QUEUED
    stage.client.cancel(task_id)
    assert file_of(stage).read_bytes() == OLD


def test_a_task_that_must_not_replace_settles_by_its_destination(stage: Stage) -> None:
    file_of(stage).unlink()
    with stage.faulty("renamed", "kill"):
        task_id = stage.push(NEW, if_exists=task_pb2.IF_EXISTS_FAIL)
        stage.reaches(task_id, task_pb2.TASK_STATE_SETTLING)
        with stage.worker():
            stage.reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)
    assert file_of(stage).read_bytes() == NEW
    assert not temps_under(stage.instances)
