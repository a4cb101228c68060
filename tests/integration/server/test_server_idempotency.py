"""P4 through the whole server: the same request gives the same tasks, whatever has become of them meanwhile."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from longshore.client import push_spec
from longshore.client.errors import LongshoreError
from longshore.v1 import task_pb2
from tests.support.servers.processes import eventually
from tests.support.servers.stage import Stage, staged

DAY = 86400.0
SIZES = {"inline": 1000, "spooled": 100_000}


def kill_and_start(stage: Stage) -> None:
    stage.server.kill()
    stage.server.start()


def age(stage: Stage, request_id: str, days: float) -> None:
    """As if the tasks of a request had ended so long ago. The server is down."""
    change = f"UPDATE requests SET ended_at = ended_at - {days * DAY} WHERE request_id = '{request_id}'"
    assert len(stage.server.execute(f"{change} RETURNING request_id")) == 1


def gone(stage: Stage) -> bool:
    """No payload is kept any more."""
    return not stage.server.leftovers() and stage.client.stats().spool_bytes == 0


@pytest.mark.cluster("P4")
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_an_upload_that_was_delivered_answers_with_its_task(tmp_path: Path, size: int) -> None:
    content = b"x" * size
    with staged(tmp_path) as stage:
        spec = push_spec("web/etc/motd")

        def again() -> list[str]:
            return [task.id for task in stage.client.upload(content, spec=spec, request_id="r")]

        first = again()
        with stage.worker():
            stage.reaches(first[0], task_pb2.TASK_STATE_SUCCEEDED)
        eventually(lambda: gone(stage), what="the payload's removal")
        assert again() == first
        kill_and_start(stage)
        assert again() == first
        assert stage.client.get_upload("r").complete
        assert len(list(stage.client.list())) == 1
        with pytest.raises(LongshoreError) as refused:
            stage.client.upload(content + b"y", spec=spec, request_id="r")
        assert refused.value.reason == "REQUEST_ID_REUSED"


@pytest.mark.cluster("P4")
def test_submissions_and_retries_answer_with_their_task_after_a_restart(tmp_path: Path) -> None:
    with staged(tmp_path) as stage:
        client = stage.client
        (task,) = client.upload(b"x" * 100_000, spec=push_spec("web/nowhere/motd"), request_id="u")
        calls: dict[str, Callable[[], str]] = {
            "submit": lambda: (
                client.submit(spec=push_spec("web/etc/other"), payload_id=task.payload.id, request_id="s")[0].id
            ),
            "retry": lambda: client.retry(task.id, request_id="t").id,
        }
        with stage.worker():
            stage.reaches(task.id, task_pb2.TASK_STATE_FAILED)
            first = {name: call() for name, call in calls.items()}
            assert {name: call() for name, call in calls.items()} == first
            stage.reaches(first["submit"], task_pb2.TASK_STATE_SUCCEEDED)
            stage.reaches(first["retry"], task_pb2.TASK_STATE_FAILED)
        kill_and_start(stage)
        assert {name: call() for name, call in calls.items()} == first
        # Under the id of another call, or with other arguments, it is another request.
        for other in (
            lambda: client.retry(first["retry"], request_id="t"),
            lambda: client.retry(task.id, request_id="s"),
            lambda: client.submit(spec=push_spec("web/etc/other"), payload_id=task.payload.id, request_id="u"),
            lambda: client.submit(spec=push_spec("web/etc/third"), payload_id=task.payload.id, request_id="s"),
        ):
            with pytest.raises(LongshoreError) as refused:
                other()
            assert refused.value.reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(("days", "remembered"), [(6.9, True), (7.1, False)])
def test_request_ids_are_remembered_for_seven_days_after_the_end(
    tmp_path: Path, days: float, *, remembered: bool
) -> None:
    with staged(tmp_path) as stage:
        spec = push_spec("web/etc/motd")
        first = stage.client.upload(b"x", spec=spec, request_id="r")[0].id
        stage.client.cancel(first)
        stage.server.terminate()
        age(stage, "r", days)
        stage.server.start()
        if remembered:
            assert stage.client.upload(b"x", spec=spec, request_id="r")[0].id == first
        else:
            eventually(lambda: not list(stage.client.list()), what="the purge")
            assert stage.client.upload(b"x", spec=spec, request_id="r")[0].id != first


def test_a_retrys_request_outlives_the_retried_task(tmp_path: Path) -> None:
    with staged(tmp_path) as stage:
        old = stage.client.upload(b"x", spec=push_spec("web/etc/motd"), request_id="old")[0].id
        stage.client.cancel(old)
        new = stage.client.retry(old, request_id="new").id
        stage.server.terminate()
        age(stage, "old", 8.0)
        stage.server.start()
        eventually(lambda: [task.id for task in stage.client.list()] == [new], what="the purge of the old task")
        assert stage.client.retry(old, request_id="new").id == new


@pytest.mark.embedded("the backup is of SQLite and a directory")
def test_a_backup_is_restored_as_the_manual_says(tmp_path: Path) -> None:
    """The database first and the spool second, both while the server runs. What was queued then waits to be let go."""
    with staged(tmp_path) as stage:
        before = stage.push(b"a" * 100_000, "web/etc/before")
        backup = tmp_path / "backup"
        backup.mkdir()
        source = sqlite3.connect(stage.server.data / "longshore.db")
        with sqlite3.connect(backup / "longshore.db") as target:
            source.backup(target)
        target.close()
        source.close()
        later = stage.push(b"b" * 100_000, "web/etc/later")
        shutil.copytree(stage.server.data / "spool", backup / "spool")
        stage.server.kill()

        for name in ("longshore.db", "longshore.db-wal", "longshore.db-shm"):
            (stage.server.data / name).unlink(missing_ok=True)
        shutil.rmtree(stage.server.data / "spool")
        shutil.copy(backup / "longshore.db", stage.server.data)
        shutil.copytree(backup / "spool", stage.server.data / "spool")
        stage.server.start()
        with pytest.raises(LongshoreError) as refused:
            stage.client.get(later)
        assert refused.value.reason == "NOT_FOUND"
        # Its payload is nobody's now, and is kept all the same.
        assert len(stage.server.leftovers()) == 2
        with stage.worker():
            assert stage.client.stats().restored.live_tasks == 1
            stage.client.resume_queue("default")
            stage.reaches(before, task_pb2.TASK_STATE_SUCCEEDED)
            again = stage.push(b"c" * 100_000, "web/etc/later")
            stage.reaches(again, task_pb2.TASK_STATE_SUCCEEDED)
        assert (stage.instances / "web" / "etc" / "before").read_bytes() == b"a" * 100_000
        assert (stage.instances / "web" / "etc" / "later").read_bytes() == b"c" * 100_000
