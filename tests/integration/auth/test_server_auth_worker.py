"""A real worker whose token is revoked in the middle of its work: nothing is lost, and nothing is done twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from longshore.client import job_spec
from longshore.server.model.access import Role
from longshore.v1 import task_pb2
from tests.support.servers.processes import WorkerProcess, eventually
from tests.support.servers.stage import Stage, staged
from tests.support.servers.tokens import token_admin_of, token_of


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("worker"), "--lease", "4s") as made:
        yield made


def worker(stage: Stage, tmp_path: Path, token: str, *, name: str) -> WorkerProcess:
    """One that has the token in a file of its own, and the kind that waits for a file."""
    (tmp_path / f"{name}.token").write_text(token)
    environment = {"PYTHONPATH": str(Path(__file__).parents[3])}
    handlers = ("--handlers", "tests.support.workers.waiting_handlers:registry")
    return stage.worker(
        *handlers, "--token-file", str(tmp_path / f"{name}.token"), name=name, targets=[], environment=environment
    )


def running(stage: Stage, tmp_path: Path) -> str:
    """A task that a worker is at, until the file `go` is there."""
    (task,) = stage.client.submit(spec=job_spec("until", StringValue(value=str(tmp_path / "go"))))
    stage.reaches(task.id, task_pb2.TASK_STATE_RUNNING)
    return task.id


def revoke(stage: Stage, token: str) -> None:
    assert token_admin_of(stage.server).revoke(token.split("_")[1]).now


def ended(stage: Stage) -> list[Any]:
    return list(stage.server.events("streams_ended"))


def test_attempts_of_a_revoked_worker_move_when_its_lease_ends(stage: Stage, tmp_path: Path) -> None:
    first, second = (token_of(stage.server, name, Role.WORK) for name in ("first", "second"))
    with worker(stage, tmp_path, first, name="first"):
        task = running(stage, tmp_path)
        revoke(stage, first)
        with worker(stage, tmp_path, second, name="second"):
            eventually(lambda: len(stage.client.attempts(task)) == 2, what="the lease ends, and the other has it")
            (tmp_path / "go").touch()
            stage.reaches(task, task_pb2.TASK_STATE_SUCCEEDED)
    lost, done = stage.client.attempts(task)
    assert (lost.worker, done.worker) == ("first", "second")
    assert stage.outcomes(task) == ["LOST", "OK"]


def test_a_worker_with_the_next_token_keeps_its_attempts(stage: Stage, tmp_path: Path) -> None:
    old, new = (token_of(stage.server, "fleet", Role.WORK) for _ in range(2))
    with worker(stage, tmp_path, old, name="renewed"):
        task = running(stage, tmp_path)
        before = len(ended(stage))
        (tmp_path / "renewed.token").write_text(new)
        revoke(stage, old)
        eventually(lambda: len(ended(stage)) > before)
        eventually(lambda: [e for e in stage.server.events("worker_connected") if e["worker"] == "renewed"][1:])
        (tmp_path / "go").touch()
        stage.reaches(task, task_pb2.TASK_STATE_SUCCEEDED)
    assert stage.outcomes(task) == ["OK"]
