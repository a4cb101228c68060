"""A data directory that a version before left behind, without a goodbye: today's longshored takes it over."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from longshore.client import Client, push_spec
from longshore.server.model.clock import SystemClock
from longshore.server.model.events import Policy
from longshore.server.store.migrations.run import revision_of
from longshore.server.store.sqlite.dialect import SQLiteDialect, SQLiteStore
from longshore.server.store.tables.schema_version import OURS
from longshore.server.store.transaction.limits import ConcurrencyLimits
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from tests.data.make import SENT, content
from tests.support.servers.processes import ServerProcess, eventually, temps_under
from tests.support.servers.stage import Stage
from tests.support.skewed import skewed

pytestmark = pytest.mark.embedded("it is about a data directory that is there already")

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture(params=["0001", "0002"])
def schema(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def facts(schema: str) -> Any:
    return json.loads((DATA / f"schema-{schema}.json").read_text())


@pytest.fixture
def stage(tmp_path: Path, schema: str, facts: Any) -> Iterator[Stage]:
    """Today's server on that data, at the time it was left: what expires by the clock has not yet."""
    server = ServerProcess(tmp_path, environment=skewed(facts["at"] - time.time()))
    server.data.mkdir(mode=0o700)
    with sqlite3.connect(server.data / "longshore.db") as connection:
        connection.executescript((DATA / f"schema-{schema}.sql").read_text())
        # The target is another folder now.
        connection.execute("DELETE FROM targets")
        # Paid once already, they would be due again in ten minutes.
        connection.execute("UPDATE debts SET due_at = ?", (facts["at"],))
    for name, size in facts["spool"].items():
        path = server.data / "spool" / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(content(size))
    with server, Client(server=server.address, token_file=server.token_file, patience=30.0) as client:
        yield Stage(tmp_path, server, client)


def states(stage: Stage, tasks: Mapping[str, str]) -> dict[str, str]:
    return {
        name: task_pb2.TaskState.Name(stage.client.get(task_id).state).removeprefix("TASK_STATE_")
        for name, task_id in tasks.items()
    }


def test_an_upgrade_is_no_restore(stage: Stage) -> None:
    """A version before wrote down nowhere how far its database had come: that is no reason to pause its queues, neither
    at the first start nor at the next one."""
    paused = {row.queue for row in stage.client.stats().queues if row.paused}
    stage.server.kill()
    stage.server.start()
    after = stage.client.stats()
    assert not after.HasField("restored")
    assert {row.queue for row in after.queues if row.paused} == paused
    assert not list(stage.server.events("restored"))
    assert not list(stage.server.events("database_behind"))


@pytest.mark.slow
def test_everything_is_there_and_the_rest_is_delivered(stage: Stage, facts: Any) -> None:
    tasks: dict[str, str] = facts["tasks"]
    client = stage.client
    found = states(stage, tasks)
    # Either: their worker is gone, and its lease may be over by now. The last is due two seconds after it was sent.
    assert found.pop("running") in ("RUNNING", "QUEUED")
    assert found.pop("granted") in ("RUNNING", "QUEUED")
    assert found.pop("later") in ("SCHEDULED", "QUEUED")
    assert found == {
        "succeeded": "SUCCEEDED",
        "failed": "FAILED",
        "cancelled": "CANCELLED",
        "parked": "SCHEDULED",
        "queued": "QUEUED",
        "blocked": "BLOCKED",
        "paused": "QUEUED",
    }
    assert client.get(tasks["failed"]).error.reason == "PARENT_MISSING"
    assert client.get(tasks["cancelled"]).cancel_reason == "no longer wanted"
    grey = pb.TaskFilter(labels={"colour": "grey", "ship": "Beagle"})
    assert [task.id for task in client.list(filter=grey)] == [tasks["succeeded"]]
    assert len(list(client.list())) == len(tasks)
    assert [update.revision for update in client.watch(tasks["succeeded"], after_revision=1)] == [2, 3, 4]
    assert stage.outcomes(tasks["granted"])[:2] == ["LOST", "SETTLED_REMOVED"]
    assert client.get_upload("open-upload").offset == SENT

    left = [stage.instances / "web/etc" / f".longshore-{tasks[name]}-1-1.tmp" for name in ("granted", "cancelled")]
    for temp in left:
        temp.touch()
    with stage.worker():
        for name in ("granted", "running", "queued", "blocked", "later"):
            stage.reaches(tasks[name], task_pb2.TASK_STATE_SUCCEEDED)
        (stage.instances / "absent" / "etc").mkdir(parents=True)
        stage.reaches(tasks["parked"], task_pb2.TASK_STATE_SUCCEEDED)
        client.resume_queue("paused")
        stage.reaches(tasks["paused"], task_pb2.TASK_STATE_SUCCEEDED)
        (opened,) = client.upload(content(2 * SENT), spec=push_spec("web/etc/open"), request_id="open-upload")
        stage.reaches(opened.id, task_pb2.TASK_STATE_SUCCEEDED)
        (stage.instances / "web" / "missing").mkdir()
        stage.reaches(client.retry(tasks["failed"]).id, task_pb2.TASK_STATE_SUCCEEDED)
        eventually(lambda: not temps_under(stage.instances), what="the debts are paid")
    delivered = {
        "web/etc/granted": 70_000,
        "web/etc/running": 70_000,
        "web/etc/queue": 70_001,
        "web/etc/later": 1_000,
        "web/etc/paused": 1_000,
        "absent/etc/parked": 1_000,
        "web/etc/open": 2 * SENT,
        "web/missing/failed": 70_000,
    }
    for path, size in delivered.items():
        assert (stage.instances / path).read_bytes() == content(size), path
    assert (stage.instances / "web/etc/queue").stat().st_mode & 0o777 == 0o640
    assert not (stage.instances / "web/etc/cancelled").exists()
    stage.server.terminate()
    assert asyncio.run(discrepancies(stage.server.data / "longshore.db")) == []


async def discrepancies(path: Path) -> list[str]:
    with SQLiteDialect(path).engine.connect() as connection:
        assert revision_of(connection) == OURS
    store = SQLiteStore(path=path, clock=SystemClock(), policy=Policy(), limits=ConcurrencyLimits())
    await store.open()
    try:
        return list(await store.verify_counters())
    finally:
        await store.close()
