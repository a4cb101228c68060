"""P10, P16, P18 with processes that die or stand still: jobs of one key go in order, one at a time; nothing runs beside
an exclusive job; and of many pushes to one file the latest wins.

PLACES says how many tasks the test of exclusive jobs has; `make places` runs it with many.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from longshore.client import Client, Submission, job_spec, push_spec
from longshore.v1 import task_pb2
from tests.support.chaos import Chaos
from tests.support.servers.cluster import ServerFleet, fleet_of
from tests.support.servers.processes import WorkerProcess, eventually, temps_under
from tests.support.servers.stage import staged
from tests.support.stores.postgres import Cluster

pytestmark = [pytest.mark.faults, pytest.mark.slow]

TASKS: Final = int(os.environ.get("PLACES", "500"))
INSTANCES, SENDERS = 50, 8
_TREE: Final = Path(__file__).resolve().parents[3]
PLACED: Final[dict[str, Any]] = {
    "environment": {"PYTHONPATH": os.pathsep.join([str(_TREE), os.environ.get("PYTHONPATH", "")])}
}
HANDLERS: Final = ("--handlers", "tests.support.workers.placed_handlers:registry")
_STARTS: Final = """
SELECT tasks.seq, tasks.instance, coalesce(tasks.exclusive, false), min(attempts.started_at)
FROM tasks JOIN attempts USING (seq) GROUP BY 1, 2, 3 ORDER BY 1
"""

ACCIDENTS: Final = ("none", "fails", "is tried again", "crashes", "waits") * 2


@pytest.mark.embedded("one server is enough")
def test_ten_jobs_of_one_key_go_in_order_through_failures_parking_and_crashes(tmp_path: Path) -> None:
    record = tmp_path / "record"
    with staged(tmp_path) as stage, stage.worker(*HANDLERS, **PLACED) as worker:
        root = stage.instances / "late"

        def revived() -> bool:
            """Start the worker again when a job has killed it."""
            if worker.process.poll() is not None:
                worker.start()
            return True

        def parked(task_id: str) -> task_pb2.Task | None:
            found = stage.client.get(task_id)
            waits = found.state == task_pb2.TASK_STATE_SCHEDULED and not found.HasField("due_time")
            return found if revived() and waits else None

        def done(task_id: str) -> bool:
            return revived() and stage.client.get(task_id).done

        ids: list[str] = []
        for number, accident in enumerate(ACCIDENTS):
            said = {"record": str(record), "root": str(root), "number": number, "accident": accident}
            spec = job_spec("step", said, target="default", instance="late", key="steps")
            ids += [task.id for task in stage.client.submit(spec=spec)]
        for task_id, accident in zip(ids, ACCIDENTS, strict=True):
            if accident == "waits" and not root.exists():
                waiting = eventually(partial(parked, task_id), within=90, what="the parked job")
                assert waiting.wait_reason == task_pb2.WAIT_REASON_INSTANCE_ABSENT
                behind = [stage.client.get(each) for each in ids if each > task_id]
                assert {(each.state, each.blocked_by) for each in behind} == {(task_pb2.TASK_STATE_BLOCKED, task_id)}
                root.mkdir()
            eventually(partial(done, task_id), within=90, what=f"the end of the job that {accident}")
        ends = [stage.client.get(task_id).state for task_id in ids]
    failed, succeeded = task_pb2.TASK_STATE_FAILED, task_pb2.TASK_STATE_SUCCEEDED
    assert ends == [failed if accident == "fails" else succeeded for accident in ACCIDENTS]
    lines = [line.split() for line in record.read_text().splitlines()]
    assert "CLASH" not in {line[0] for line in lines}, "one at a time"
    begun = [int(number) for what, number in lines if what == "begin"]
    assert begun == sorted(begun), "in the order of acceptance"
    tries = Counter(begun)
    for number, accident in enumerate(ACCIDENTS):
        assert tries[number] >= (2 if accident in {"is tried again", "crashes"} else 1)


PUSHES: Final = 1000
RECORDING: Final = Path(__file__).parents[2] / "support" / "workers" / "recording_worker.py"


@contextmanager
def watched(file: Path) -> Iterator[set[bytes]]:
    """Read the file again and again while the block runs; yields what it had."""
    seen: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.001):
            with suppress(FileNotFoundError):
                seen.add(file.read_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@pytest.mark.embedded("one server is enough")
def test_of_a_thousand_pushes_to_one_file_the_last_one_stands(tmp_path: Path) -> None:
    """The first stands still before its grant. Half of the others come meanwhile, and half when it is given up."""
    record = tmp_path / "record"
    content: dict[str, bytes] = {}
    """Content of each task by its id: ids are in the order of acceptance."""

    def push_many(numbers: range) -> None:
        files = (
            Submission(spec=push_spec("web/etc/motd", on_pending="supersede"), content=b"%d" % n, request_id=f"p{n}")
            for n in numbers
        )
        for done in stage.client.submit_many(files):
            assert done.error is None
            content[done.task_ids[0]] = done.submission.request_id.removeprefix("p").encode()

    with staged(tmp_path, "--lease", "3s") as stage, watched(stage.instances / "web/etc/motd") as seen:
        with stage.faulty("staged", "stop") as slow:
            first = stage.push(b"slow", on_pending="supersede")
            content[first] = b"slow"
            eventually(slow.stopped, what="the slow one stands still, all but granted")
            push_many(range(PUSHES // 2))
            assert stage.client.get(first).state == task_pb2.TASK_STATE_CANCELLING
            with stage.worker(name="quick", script=RECORDING, environment={"RECORD": str(record)}):
                stage.reaches(first, task_pb2.TASK_STATE_CANCELLED)
                push_many(range(PUSHES // 2, PUSHES))
                last = max(content)
                stage.reaches(last, task_pb2.TASK_STATE_SUCCEEDED)
                slow.resume()
                eventually(lambda: not temps_under(stage.instances), what="the slow one gives up and cleans up")
        tasks = {task.id: task for task in stage.client.list()}
        assert (stage.instances / "web/etc/motd").read_bytes() == content[last]
    assert tasks.keys() == content.keys()
    delivered = {task.id for task in tasks.values() if task.state == task_pb2.TASK_STATE_SUCCEEDED}
    assert last in delivered
    assert seen <= {content[task_id] for task_id in delivered}, "what was overtaken was never there"
    assert len(record.read_text().splitlines()) == len(delivered), "no rename but theirs"
    overtaken = [task for task in tasks.values() if task.id not in delivered]
    assert len(overtaken) >= PUSHES // 2
    for task in overtaken:
        assert (task.state, task.error.reason) == (task_pb2.TASK_STATE_CANCELLED, "SUPERSEDED")
        assert task.id < task.superseded_by <= last, "each says by which later one"


def send(fleet: ServerFleet, client: Client, number: int) -> str:
    """Submit a push, a job or an exclusive job at random; the task's id."""
    rng = random.Random(number)
    instance = f"i{rng.randrange(INSTANCES)}"
    request = f"place-{number}"
    terms: dict[str, Any] = {"priority": rng.choice([0, 0, 10]), "attempt_limit": 100}
    sort = rng.choice(["push", "shared", "shared", "exclusive"])
    if sort == "push":
        to = push_spec(f"{instance}/srv/f{number}", **terms)
        return str(client.upload(rng.randbytes(2000), spec=to, request_id=request)[0].id)
    said = {
        "record": str(fleet.root / "records" / instance),
        "root": str(fleet.instances / instance),
        "seconds": rng.uniform(0.0, 0.4),
        "exclusive": sort == "exclusive",
    }
    spec = job_spec(
        "placed",
        said,
        target="default",
        instance=instance,
        access="exclusive" if sort == "exclusive" else "shared",
        **terms,
    )
    return str(client.submit(spec=spec, request_id=request)[0].id)


@pytest.mark.embedded("it makes its own fleet")
def test_nothing_ever_runs_beside_an_exclusive_job_of_its_instance(tmp_path: Path, postgres: Cluster) -> None:
    with ExitStack() as stack:
        fleet = stack.enter_context(fleet_of(tmp_path, postgres, "--lease", "20s", servers=3))
        fleet.make_instances(*(f"i{number}" for number in range(INSTANCES)))
        (fleet.root / "records").mkdir()
        workers: list[WorkerProcess] = [
            stack.enter_context(fleet.worker(*HANDLERS, "--concurrency", "30", name=f"w{number}", **PLACED))
            for number in range(3)
        ]
        client = stack.enter_context(fleet.client(patience=120.0, timeout=120.0))
        chaos = Chaos([*fleet.servers, *workers], random.Random(TASKS), pause=1.5)
        with chaos.running(), ThreadPoolExecutor(SENDERS) as pool:
            sent = list(pool.map(partial(send, fleet, client), range(TASKS)))
            for task_id in sent:
                fleet[0].reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED, within=240)
        starts = fleet.rows(_STARTS)
        assert fleet.discrepancies() == []
    assert len(starts) == TASKS
    assert sum(chaos.kills.values()) > 2
    lines = [line for record in (tmp_path / "records").iterdir() for line in record.read_text().splitlines()]
    assert {line for line in lines if line.startswith("CLASH")} == set()
    assert sum(line.startswith("begin ") for line in lines) >= TASKS / 2
    for instance in {where for _, where, _, _ in starts}:
        there = [(alone, at) for _, where, alone, at in starts if where == instance]
        latest, last_alone = 0.0, 0.0
        for alone, at in there:
            assert at >= last_alone, "no later task starts before an exclusive one"
            if alone:
                assert at >= latest, "those that were accepted before it start before it"
                last_alone = at
            latest = max(latest, at)
