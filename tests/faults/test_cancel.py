"""P8: a cancel at every moment of a task's life; afterwards state and destination agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.client import Client
from longshore.v1 import task_pb2
from tests.support.network.proxy_thread import ProxyThread
from tests.support.servers.processes import eventually, temps_under
from tests.support.servers.stage import Stage, ended, staged

OLD, NEW = b"old\n", b"new\n"
GIB = 1 << 30


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path, "--lease", "2s", "--cancel-grace", "3s") as stage:
        file_of(stage).write_bytes(OLD)
        yield stage


def file_of(stage: Stage) -> Path:
    """The destination of every task here."""
    return stage.instances / "web" / "etc" / "motd"


def cancelled_and_untouched(stage: Stage, task_id: str) -> None:
    """CANCELLED, the old content, and a second cancel changes nothing."""
    done = stage.reaches(task_id, task_pb2.TASK_STATE_CANCELLED)
    assert stage.client.cancel(task_id).revision == done.revision
    assert file_of(stage).read_bytes() == OLD
    assert not temps_under(stage.instances)


def test_while_queued(stage: Stage) -> None:
    task_id = stage.push(NEW)
    assert stage.client.cancel(task_id, reason="not needed").cancel_reason == "not needed"
    with stage.worker():
        cancelled_and_untouched(stage, task_id)
        # The next one is not held up by it.
        stage.reaches(stage.push(b"next"), task_pb2.TASK_STATE_SUCCEEDED)


def test_while_blocked(stage: Stage) -> None:
    first, second, third = stage.push(b"first"), stage.push(NEW), stage.push(OLD)
    assert stage.client.get(second).blocked_by == first
    assert stage.client.cancel(second).state == task_pb2.TASK_STATE_CANCELLED
    with stage.worker():
        stage.reaches(third, task_pb2.TASK_STATE_SUCCEEDED)
    cancelled_and_untouched(stage, second)


def test_while_scheduled(stage: Stage) -> None:
    task_id = stage.push(NEW, not_before=3600)
    assert stage.client.get(task_id).state == task_pb2.TASK_STATE_SCHEDULED
    assert stage.client.cancel(task_id).state == task_pb2.TASK_STATE_CANCELLED
    with stage.worker():
        cancelled_and_untouched(stage, task_id)


def test_while_parked(stage: Stage) -> None:
    with stage.worker():
        task_id = stage.push(NEW, "ghost/etc/motd", when_absent=task_pb2.WHEN_ABSENT_WAIT)
        parked = stage.reaches(task_id, task_pb2.TASK_STATE_SCHEDULED)
        assert parked.wait_reason == task_pb2.WAIT_REASON_INSTANCE_ABSENT
        assert stage.client.cancel(task_id).state == task_pb2.TASK_STATE_CANCELLED
        (stage.instances / "ghost" / "etc").mkdir(parents=True)
        cancelled_and_untouched(stage, task_id)
        assert not (stage.instances / "ghost" / "etc" / "motd").exists()


@pytest.mark.embedded("a GiB is too much for an object store in memory")
def test_in_the_middle_of_a_large_push(stage: Stage, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(GIB)
    task_id = stage.push(large)
    large.unlink()
    with stage.worker():
        eventually(lambda: temps_under(stage.instances), what="the push has begun")
        assert stage.client.cancel(task_id).state == task_pb2.TASK_STATE_CANCELLING
        cancelled_and_untouched(stage, task_id)
    assert stage.outcomes(task_id) == ["STOPPED"]


@pytest.mark.cluster("P8")
def test_between_verify_and_grant(stage: Stage) -> None:
    with stage.faulty("staged", "stop") as worker:
        task_id = stage.push(NEW)
        eventually(worker.stopped, what="the file is verified and no grant asked for")
        assert stage.client.cancel(task_id).state == task_pb2.TASK_STATE_CANCELLING
        worker.resume()
        cancelled_and_untouched(stage, task_id)


def test_a_cancel_after_the_grant_is_too_late(stage: Stage) -> None:
    with stage.faulty("granted", "stop") as worker:
        task_id = stage.push(NEW)
        eventually(worker.stopped, what="the rename is granted and not done")
        answer = stage.client.cancel(task_id)
        assert (answer.state, answer.cancel_requested) == (task_pb2.TASK_STATE_COMMITTING, True)
        worker.resume()
        stage.reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)
    assert file_of(stage).read_bytes() == NEW


def test_a_cancel_after_success_changes_nothing(stage: Stage) -> None:
    with stage.worker():
        task_id = stage.push(NEW)
        done = stage.reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)
    assert stage.client.cancel(task_id) == done
    assert file_of(stage).read_bytes() == NEW


@pytest.mark.cluster("P8")
def test_a_worker_that_was_cut_off_learns_of_the_cancel_when_it_reconnects(stage: Stage) -> None:
    with ProxyThread(unix=stage.server.socket) as proxy:
        worker = stage.faulty("staged", "stop")
        worker.argv[worker.argv.index("--server") + 1] = proxy.address
        with worker:
            task_id = stage.push(NEW)
            eventually(worker.stopped, what="the file is verified and no grant asked for")
            proxy.refuse()
            worker.resume()
            assert stage.client.cancel(task_id).state == task_pb2.TASK_STATE_CANCELLING
            proxy.accept()
            cancelled_and_untouched(stage, task_id)
    assert stage.outcomes(task_id) in (["STOPPED"], ["LOST"], ["TIMED_OUT"])


def test_a_worker_that_never_returns_changes_nothing(stage: Stage) -> None:
    with stage.faulty("staged", "kill"):
        task_id = stage.push(NEW)
        eventually(stage.mark.exists, what="the worker is dead")
        stage.client.cancel(task_id)
        stage.reaches(task_id, task_pb2.TASK_STATE_CANCELLED)
        assert file_of(stage).read_bytes() == OLD
        # The temp that it left behind is a debt that the next worker pays.
        assert temps_under(stage.instances)
        with stage.worker():
            eventually(lambda: not temps_under(stage.instances), what="the debt is paid")


@pytest.mark.cluster("P8")
def test_a_cancel_survives_the_server(stage: Stage) -> None:
    with stage.faulty("staged", "stop") as worker:
        task_id = stage.push(NEW)
        eventually(worker.stopped, what="the file is verified and no grant asked for")
        stage.client.cancel(task_id)
        stage.server.kill()
        stage.server.start()
        worker.resume()
        with Client(server=stage.server.address, token_file=stage.server.token_file) as client:
            done = ended(client, task_id)
        assert done.state == task_pb2.TASK_STATE_CANCELLED
    assert file_of(stage).read_bytes() == OLD
