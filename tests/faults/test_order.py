"""P9, P10: order at a destination, and nobody held up by somebody else's trouble."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.client import push_spec
from longshore.v1 import task_pb2
from tests.support.servers.processes import ServerProcess, WorkerProcess, eventually
from tests.support.servers.stage import Stage, staged


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path, "--lease", "3s") as stage:
        yield stage


def moments(stage: Stage, task_id: str) -> tuple[float, float]:
    """Start of the first attempt and end of the task, in seconds."""
    attempts = stage.client.attempts(task_id)
    finish = stage.client.get(task_id).finish_time
    start = attempts[0].start_time
    return start.seconds + start.nanos / 1e9, finish.seconds + finish.nanos / 1e9


@pytest.mark.cluster("P9", "P10")
def test_ten_tasks_for_one_destination_go_in_order_one_at_a_time(stage: Stage) -> None:
    """Among them some that fail for good, some that fail for a while, and some that wait for their instance."""
    place = stage.instances / "late" / "srv"
    late = {"when_absent": task_pb2.WHEN_ABSENT_WAIT}
    ids = []
    for number in range(10):
        # The fifth may not replace what the fourth left, and fails.
        more = {"if_exists": task_pb2.IF_EXISTS_FAIL} if number == 4 else {}
        ids.append(stage.push(b"%d" % number, "late/srv/file", **late, **more))
    with stage.worker("--concurrency", "8"):
        parked = stage.reaches(ids[0], task_pb2.TASK_STATE_SCHEDULED)
        assert parked.wait_reason == task_pb2.WAIT_REASON_INSTANCE_ABSENT
        assert {stage.client.get(one).blocked_by for one in ids[1:]} == {ids[0]}
        place.mkdir(parents=True)
        eventually(lambda: stage.client.get(ids[-1]).done, within=60, what="the last one is done")
    states = [stage.client.get(one).state for one in ids]
    assert states[4] == task_pb2.TASK_STATE_FAILED
    assert [state for number, state in enumerate(states) if number != 4] == [task_pb2.TASK_STATE_SUCCEEDED] * 9
    assert (place / "file").read_bytes() == b"9"
    spans = [moments(stage, one) for one in ids]
    for earlier, later in itertools.pairwise(spans):
        assert later[0] >= earlier[1] - 1e-3, "a task began before the one ahead of it had ended"


def test_waiting_tasks_of_an_absent_instance_delay_no_other(stage: Stage) -> None:
    late = {"when_absent": task_pb2.WHEN_ABSENT_WAIT}
    waiting = [stage.push(b"x", f"ghost/etc/f{number}", **late) for number in range(100)]
    with stage.worker("--concurrency", "2"):
        for number in range(20):
            stage.reaches(stage.push(b"%d" % number, f"web/etc/f{number}"), task_pb2.TASK_STATE_SUCCEEDED)

        def all_parked() -> bool:
            return all(stage.client.get(one).wait_reason == task_pb2.WAIT_REASON_INSTANCE_ABSENT for one in waiting)

        eventually(all_parked, within=60, what="all hundred are parked")
        before = {one: stage.client.get(one) for one in waiting[:5]}
        stage.reaches(stage.push(b"y", "web/etc/other"), task_pb2.TASK_STATE_SUCCEEDED)
        for one, task in before.items():
            now = stage.client.get(one)
            # Parking makes no revisions and burns no try.
            assert (now.revision, now.tries) == (task.revision, 0)
        (stage.instances / "ghost" / "etc").mkdir(parents=True)
        eventually(lambda: all(stage.client.get(one).done for one in waiting), within=90, what="all are delivered")
    assert len(list((stage.instances / "ghost" / "etc").iterdir())) == 100


def test_priority_orders_heads_only(stage: Stage) -> None:
    first = stage.push(b"1", "web/etc/a", priority=-5)
    second = stage.push(b"2", "web/etc/a", priority=100)
    low = stage.push(b"l", "other/etc/low", priority=-5)
    high = stage.push(b"h", "other/etc/high", priority=5)
    (stage.instances / "other" / "etc").mkdir(parents=True)
    with stage.worker("--concurrency", "1"):
        eventually(lambda: all(stage.client.get(one).done for one in (first, second, low, high)), what="all are done")
    assert moments(stage, first)[1] <= moments(stage, second)[0] + 1e-3
    assert moments(stage, high)[0] <= moments(stage, low)[0]


def test_limits_per_instance_hold(tmp_path: Path) -> None:
    with staged(tmp_path, "--instance-limit", "2") as stage:
        ids = [stage.push(b"x" * 200_000, f"web/etc/f{number}") for number in range(30)]
        with stage.worker("--concurrency", "10"):
            eventually(lambda: all(stage.client.get(one).done for one in ids), within=60, what="all are done")
        edges = []
        for one in ids:
            start, end = moments(stage, one)
            edges += [(start, 1), (end, -1)]
        running = most = 0
        for _, step in sorted(edges):
            running += step
            most = max(most, running)
        assert most <= 2


def test_a_paused_queue_accepts_and_starts_nothing(stage: Stage) -> None:
    stage.client.pause_queue("nightly", create=True)
    with stage.worker():
        held = stage.push(b"x", "web/etc/held", queue="nightly")
        stage.reaches(stage.push(b"y", "web/etc/other"), task_pb2.TASK_STATE_SUCCEEDED)
        assert stage.client.get(held).state == task_pb2.TASK_STATE_QUEUED
        stage.client.resume_queue("nightly")
        stage.reaches(held, task_pb2.TASK_STATE_SUCCEEDED)


@pytest.mark.cluster("P12")
def test_one_upload_many_destinations_is_one_task_each(stage: Stage) -> None:
    for name in ("a", "b", "c"):
        (stage.instances / name / "etc").mkdir(parents=True)
    spec = push_spec("a/etc/f", "b/etc/f", "c/etc/f")
    tasks = stage.client.upload(b"shared", spec=spec)
    assert len({task.payload.id for task in tasks}) == 1
    assert [task.file_push.destination.instance for task in tasks] == ["a", "b", "c"]
    with stage.worker():
        for task in tasks:
            stage.reaches(task.id, task_pb2.TASK_STATE_SUCCEEDED)
        eventually(lambda: not stage.server.leftovers(), what="the shared payload is gone")
    assert all((stage.instances / name / "etc" / "f").read_bytes() == b"shared" for name in ("a", "b", "c"))


def test_a_worker_that_comes_first_or_last_makes_no_difference(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        instances = tmp_path / "instances" / "web"
        instances.mkdir(parents=True)
        with WorkerProcess(server, targets=[f"default=directory:{tmp_path / 'instances'}"]) as worker:
            server.kill()
            server.start()
            eventually(lambda: worker.running and server.serving(), what="both run")
            from longshore.client import Client

            with Client(server=server.address, token_file=server.token_file) as client:
                (task,) = client.upload(b"x", spec=push_spec("web/f"))
                assert client.wait(task.id).state == task_pb2.TASK_STATE_SUCCEEDED
