"""Servers of the version before and of this one: one after the other on one file, and together on one database."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from typer.testing import CliRunner

from longshore.client import Client, job_spec, push_spec
from longshore.server import main
from longshore.server.store.tables.schema_version import OURS
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from tests.support.servers.processes import ServerProcess, eventually
from tests.support.servers.stage import Stage
from tests.support.stores.older import checked_out
from tests.support.stores.postgres import Cluster

TREE = Path(__file__).resolve().parents[3]

pytestmark = [pytest.mark.embedded("it is about the database itself"), pytest.mark.slow]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that runs the version before."""
    return checked_out(tmp_path_factory.mktemp("before"))


@contextmanager
def served(root: Path, *options: str, environment: dict[str, str] | None = None) -> Iterator[Stage]:
    root.mkdir(exist_ok=True)
    server = ServerProcess(root, "--log-format", "json", *options, environment=environment)
    with server, Client(server=server.address, token_file=server.token_file, patience=30.0) as client:
        yield Stage(root, server, client, instances=root.parent / "instances")


def pushed(stage: Stage, request_id: str) -> list[str]:
    """A push to two destinations under this request id; the tasks' ids, the newest first."""
    spec = push_spec(f"web/etc/{request_id}-1", f"web/etc/{request_id}-2", queue="paused")
    return [task.id for task in stage.client.upload(request_id.encode(), spec=spec, request_id=request_id)][::-1]


def of_request(stage: Stage, request_id: str) -> list[str]:
    return [task.id for task in stage.client.list(filter=pb.TaskFilter(request_id=request_id))]


def _told(server: ServerProcess, event: str) -> bool:
    return bool(list(server.events(event)))


def test_one_after_the_other_on_a_file(tmp_path: Path, before: dict[str, str]) -> None:
    root = tmp_path / "one"
    with served(root, environment=before) as old:
        old.client.pause_queue("paused", create=True)
        made = {"old": pushed(old, "old")}
        file = old.server.data / "longshore.db"
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
            (found,) = connection.execute("SELECT version_num FROM alembic_version")
        assert found == (f"{OURS - 1:04}",), "it is the version before"
    with served(root) as new:
        made["new"] = pushed(new, "new")
        assert {request_id: of_request(new, request_id) for request_id in made} == made
        # The version before is put back, and works on the schema after.
    with served(root, environment=before) as old:
        made["again"] = pushed(old, "again")
        assert {request_id: of_request(old, request_id) for request_id in made} == made
        assert {request_id: pushed(old, request_id) for request_id in made} == made, "the same requests again"
    with served(root) as new:
        assert {request_id: of_request(new, request_id) for request_id in made} == made
        new.client.resume_queue("paused")
        with new.worker():
            for task_id in (each for ids in made.values() for each in ids):
                new.reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)


def test_beside_each_other_on_a_database(tmp_path: Path, before: dict[str, str], postgres: Cluster) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(postgres.empty_database())
        options = ("--database", url, "--spool", f"file://{tmp_path}/spool")
        old = stack.enter_context(served(tmp_path / "old", *options, environment=before))
        old.client.pause_queue("paused", create=True)
        new = stack.enter_context(served(tmp_path / "new", *options))
        assert list(new.server.events("schema_before")), "the version before made it"
        made = {f"{name}-before": pushed(stage, f"{name}-before") for name, stage in (("old", old), ("new", new))}
        done = CliRunner().invoke(main._app, ["--database", url, "migrate"])
        assert done.exit_code == 0, done.output
        for server in (old.server, new.server):
            eventually(partial(_told, server, "schema_migrated"), within=60)
        made |= {f"{name}-after": pushed(stage, f"{name}-after") for name, stage in (("old", old), ("new", new))}
        for stage in (old, new):
            assert {request_id: of_request(stage, request_id) for request_id in made} == made
            assert {request_id: pushed(stage, request_id) for request_id in made} == made, "the same requests again"
        old.client.resume_queue("paused")
        with old.worker(name="of-old"), new.worker(name="of-new"):
            for task_id in (each for ids in made.values() for each in ids):
                new.reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)
        # Each sees what the other's tasks came to.
        assert {old.client.get(each).state for ids in made.values() for each in ids} == {task_pb2.TASK_STATE_SUCCEEDED}


def test_a_worker_of_the_version_before_gets_no_job_of_a_project(tmp_path: Path, before: dict[str, str]) -> None:
    """It works on with the new server, but would take a job with a project for one without. (The other way round, a new
    worker at an old server, is above.)"""
    handlers = ("--handlers", "tests.support.workers.waiting_handlers:registry")
    go_on = tmp_path / "go-on"
    go_on.touch()
    old = {"PYTHONPATH": os.pathsep.join([before["PYTHONPATH"], str(TREE)])}
    with served(tmp_path / "new") as new:
        given = StringValue(value=str(go_on))
        until = partial(job_spec, "until", given, target="default", instance="web")
        (known,) = new.client.submit(spec=until(key="a", access="exclusive"))
        (newer,) = new.client.submit(spec=until(project="shop", key="a"))
        with new.worker(*handlers, name="of-before", environment=old):
            new.reaches(known.id, task_pb2.TASK_STATE_SUCCEEDED)
            new.reaches(new.push(b"x"), task_pb2.TASK_STATE_SUCCEEDED)
            waiting = new.client.get(newer.id)
            assert (waiting.state, waiting.wait_reason) == (
                task_pb2.TASK_STATE_QUEUED,
                task_pb2.WAIT_REASON_OLD_WORKERS,
            )
            with new.worker(*handlers, name="of-now", environment={"PYTHONPATH": str(TREE)}):
                done = new.reaches(newer.id, task_pb2.TASK_STATE_SUCCEEDED)
                assert done.worker == "of-now"
