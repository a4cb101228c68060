"""GetStats says what is: queues, targets, spool, uploads, watches, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.client import NotFound
from longshore.client.values.specs import job_spec
from longshore.v1 import admin_service_pb2, task_pb2
from tests.support.servers.processes import eventually
from tests.support.servers.stage import Stage, ended, staged

SIZE = 100_000


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path, "--queue-limit", "50", "--spool-limit", "10MiB") as made:
        yield made


def queue(stats: admin_service_pb2.GetStatsResponse, name: str = "default") -> admin_service_pb2.QueueStats:
    (found,) = (row for row in stats.queues if row.queue == name)
    return found


def target(stats: admin_service_pb2.GetStatsResponse, name: str = "default") -> admin_service_pb2.TargetStats:
    (found,) = (row for row in stats.targets if row.target == name)
    return found


def test_an_idle_server_has_nothing_to_tell(stage: Stage) -> None:
    stats = stage.client.stats()
    assert (stats.spool_bytes, stats.spool_limit, stats.uploads, stats.watches) == (0, 10 << 20, 0, 0)
    assert not stats.targets
    assert not stats.finished
    assert not any(row.live for row in stats.queues)
    assert stats.version


@pytest.mark.cluster("P3")
def test_tasks_are_counted_where_they_stand_until_they_are_done(stage: Stage) -> None:
    client = stage.client
    first = stage.push(b"a" * SIZE)
    stage.push(b"b" * SIZE)  # behind the first
    stage.push(b"c" * SIZE, "web/etc/other", when_absent=task_pb2.WHEN_ABSENT_WAIT)
    stage.push(b"d" * SIZE, "nobody/etc/motd", when_absent=task_pb2.WHEN_ABSENT_WAIT)
    client.submit(spec=job_spec("unheard-of", queue="odd"))
    stats = client.stats()
    assert dict(queue(stats).live) == {"QUEUED": 3, "BLOCKED": 1}
    assert dict(queue(stats, "odd").live) == {"QUEUED": 1}
    assert queue(stats).limit == 50
    assert queue(stats).oldest_queued.ToTimedelta().total_seconds() > 0
    assert (target(stats).workers, target(stats).queued) == (0, 3)
    assert target(stats).problem == "no worker serves this target"
    assert list(stats.unserved_kinds) == ["file_push", "unheard-of"]
    assert stats.spool_bytes == 4 * SIZE

    with stage.worker():
        for task in client.list():
            if task.kind == "file_push" and task.file_push.destination.instance == "web":
                stage.reaches(task.id, task_pb2.TASK_STATE_SUCCEEDED)
        stats = eventually(lambda: found if target(found := client.stats()).parked else None)
        assert (target(stats).workers, target(stats).queued, target(stats).running) == (1, 0, 0)
        assert (target(stats).parked, target(stats).problem) == (1, "")
        assert dict(queue(stats).live) == {"SCHEDULED": 1}
        assert list(stats.unserved_kinds) == ["unheard-of"]
        assert dict(stats.finished) == {"SUCCEEDED": 3}
        eventually(lambda: client.stats().spool_bytes == SIZE, what="the removal of delivered payloads")
        assert client.get(first).state == task_pb2.TASK_STATE_SUCCEEDED


def test_a_queue_that_is_paused_says_so(stage: Stage) -> None:
    stage.client.pause_queue("default")
    assert queue(stage.client.stats()).paused
    stage.client.resume_queue("default")
    assert not any(row.paused for row in stage.client.stats().queues)


def test_only_a_queue_that_is_there_is_paused(stage: Stage) -> None:
    for refused in (stage.client.pause_queue, stage.client.resume_queue):
        with pytest.raises(NotFound) as error:
            refused("defualt")
        assert error.value.reason == "QUEUE_NOT_FOUND"
        assert "default" in error.value.message
    assert not any(row.queue == "defualt" for row in stage.client.stats().queues)
    stage.client.pause_queue("nightly", create=True)
    stage.client.resume_queue("nightly")


def test_stats_show_each_limit_beside_its_figure(stage: Stage) -> None:
    stats = stage.client.stats()
    assert (stats.uploads, stats.upload_limit) == (0, 64)


def test_figures_of_the_database_outlive_the_server(stage: Stage) -> None:
    kept = stage.push(b"a" * SIZE)
    stage.client.cancel(stage.push(b"b" * SIZE, "web/etc/other"))
    stage.server.kill()
    stage.server.start()
    stats = stage.client.stats()
    assert dict(queue(stats).live) == {"QUEUED": 1}
    assert stats.spool_bytes == 2 * SIZE  # the cancelled one's is kept for a retry
    stage.client.cancel(kept)
    assert not any(row.live for row in stage.client.stats().queues)


HANDLERS = """
from longshore.worker import Registry, TransientError

registry = Registry()


@registry.handler("probe")
def probe(context):
    if context.task.labels["hangs"]:
        raise TransientError("TARGET_TIMEOUT", "the daemon does not answer")
"""


def test_stats_show_a_targets_failures_until_an_attempt_succeeds(stage: Stage, tmp_path: Path) -> None:
    client = stage.client
    (tmp_path / "probing.py").write_text(HANDLERS)

    def probe(hangs: str) -> None:
        [task] = client.submit(
            spec=job_spec("probe", target="default", attempt_limit=1, labels={"hangs": hangs}, queue="probes")
        )
        ended(client, task.id)

    with stage.worker("--handlers", "probing:registry", environment={"PYTHONPATH": str(tmp_path)}):
        probe("")
        assert (target(client.stats()).recent_attempts, target(client.stats()).problem) == (1, "")
        for _ in range(3):
            probe("yes")
        row = target(client.stats())
        assert row.problem == "times out: 3 of the last 4 attempts (TARGET_TIMEOUT)"
        assert (row.recent_failures, row.recent_attempts) == (3, 4)
        first = min(task.finish_time.ToDatetime() for task in client.list() if task.error.reason)
        assert abs((row.problem_since.ToDatetime() - first).total_seconds()) < 1.0
        probe("")
        row = target(client.stats())
        assert (row.problem, row.HasField("problem_since"), row.recent_failures) == ("", False, 3)


def test_a_worker_reports_an_unusable_target_and_its_recovery(stage: Stage) -> None:
    client, roots = stage.client, stage.root / "later"
    with stage.worker(targets=[f"later=directory:{roots}"], name="w1"):
        row = eventually(
            lambda: found if (found := {row.target: row for row in client.stats().targets}.get("later")) else None
        )
        row = eventually(lambda: found if (found := target(client.stats(), "later")).problem else None)
        assert row.problem.startswith("w1 cannot use it: ")
        assert row.HasField("problem_since")
        [worker] = client.workers()
        [problem] = worker.problems
        assert (problem.target, problem.since) == ("later", row.problem_since)
        assert f"({problem.reason})" in row.problem
        assert '"target_unusable"' in stage.server.log()
        roots.mkdir()
        eventually(lambda: not target(client.stats(), "later").problem, what="the next look", within=60.0)
        assert '"target_usable"' in stage.server.log()
