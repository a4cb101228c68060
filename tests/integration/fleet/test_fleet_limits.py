"""P3, P4, P10 over servers: bounds, limits, order and idempotency hold while two take load at once."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from longshore.client import job_spec, push_spec
from longshore.client.errors import LongshoreError
from longshore.server.model.values import State
from longshore.v1 import task_pb2
from tests.support.servers.cluster import ServerFleet, fleet_of
from tests.support.servers.processes import eventually
from tests.support.stores.postgres import Cluster

QUEUE, CALLER, INSTANCE, TARGET = 20, 50, 2, 3
AT_ONCE = 8


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, postgres: Cluster) -> Iterator[ServerFleet]:
    limits = {"queue": QUEUE, "caller": CALLER, "instance": INSTANCE, "target": TARGET}
    options = [word for name, value in limits.items() for word in (f"--{name}-limit", str(value))]
    with fleet_of(tmp_path_factory.mktemp("limits"), postgres, "--lease", "4s", *options) as fleet:
        yield fleet
        assert fleet.discrepancies() == []


def concurrently(fleet: ServerFleet, count: int, call: Callable[[int, int], Any]) -> list[Any]:
    """Answers or LongshoreErrors of `call(server, number)`, at both servers in turn and at once."""

    def one(number: int) -> Any:
        try:
            return call(number % 2, number)
        except LongshoreError as error:
            return error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, range(count)))


def reasons(answers: list[Any]) -> Counter[str]:
    return Counter(each.reason if isinstance(each, LongshoreError) else "accepted" for each in answers)


def cancel_all(fleet: ServerFleet) -> None:
    for task in list(fleet[0].client.list()):
        if not task.done:
            fleet[task.revision % 2].client.cancel(task.id)


def test_queues_and_shares_of_callers_are_bounded_over_all_servers(fleet: ServerFleet) -> None:
    def submit(queue: str) -> Callable[[int, int], Any]:
        return lambda at, _number: fleet[at].client.submit(spec=job_spec("none", queue=queue), patience=0)

    for queue in ("one", "two"):
        assert reasons(concurrently(fleet, 40, submit(queue))) == {"accepted": QUEUE, "QUEUE_FULL": 40 - QUEUE}
    answers = reasons(concurrently(fleet, 20, submit("three")))
    assert answers == {"accepted": CALLER - 2 * QUEUE, "CALLER_SHARE": 20 - (CALLER - 2 * QUEUE)}
    assert sum(row.live["QUEUED"] for row in fleet[1].client.stats().queues) == CALLER
    cancel_all(fleet)
    # A task that ended at either server makes room at both.
    assert reasons(concurrently(fleet, 10, submit("one"))) == {"accepted": 10}
    cancel_all(fleet)


def test_limits_of_instances_and_targets_hold_over_all_servers(fleet: ServerFleet, tmp_path: Path) -> None:
    go = StringValue(value=str(tmp_path / "go"))
    # Neither worker alone can take as many as may run, and both together could take more.
    with (
        fleet.handlers("--concurrency", "2", at=[0], name="w0"),
        fleet.handlers("--concurrency", "2", at=[1], name="w1"),
    ):
        eventually(lambda: len(list(fleet[0].client.workers())) == 2, what="both workers are there")
        concurrently(
            fleet,
            18,
            lambda at, number: fleet[at].client.submit(
                spec=job_spec("until", go, target="default", instance=f"i{number % 6}")
            ),
        )
        eventually(lambda: fleet[0].client.stats().targets[0].running == TARGET, what="as many run as may")
        (tmp_path / "go").touch()
        eventually(lambda: all(task.done for task in fleet[1].client.list()), what="all are done")
    spans = fleet.rows(
        "SELECT tasks.instance, attempts.started_at, attempts.ended_at, attempts.worker FROM attempts "
        "JOIN tasks USING (seq) WHERE tasks.kind = 'until'"
    )
    assert len(spans) == 18
    assert {worker for *_, worker in spans} == {"w0", "w1"}
    assert most_at_once(spans) == TARGET
    by_instance: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for each in spans:
        by_instance[each[0]].append(each)
    assert all(most_at_once(each) <= INSTANCE for each in by_instance.values())


def most_at_once(spans: list[tuple[Any, ...]]) -> int:
    """Count the attempts that ran at once at most. An end makes room in its own transaction, so it counts first."""
    edges = sorted([(end, -1) for _, _, end, *_ in spans] + [(start, 1) for _, start, *_ in spans])
    return max(itertools.accumulate(step for _, step in edges))


def test_one_destination_is_served_in_the_order_of_acceptance(fleet: ServerFleet) -> None:
    with fleet.worker(at=[0], name="w0"), fleet.worker(at=[1], name="w1"):
        answers = concurrently(fleet, 16, lambda at, number: fleet[at].push(b"%d" % number, "web/etc/order"))
        eventually(lambda: all(fleet[1].client.get(one).done for one in answers), what="all are delivered")
    rows = fleet.rows(
        "SELECT tasks.seq, tasks.id, attempts.started_at, attempts.ended_at FROM tasks JOIN attempts USING (seq) "
        "WHERE tasks.id = ANY(%s) ORDER BY seq",
        answers,
    )
    assert len(rows) == 16
    for (*_, ended), (_, _, started, _) in itertools.pairwise(rows):
        assert started >= ended, "one began before the one ahead of it had ended"
    last = answers.index(rows[-1][1])
    assert (fleet.instances / "web" / "etc" / "order").read_bytes() == b"%d" % last


def test_a_request_that_comes_to_both_servers_at_once_makes_its_tasks_once(fleet: ServerFleet) -> None:
    contents = [b"s" * 100, b"l" * 300_000]
    for number, content in enumerate(contents):
        spec = push_spec(f"web/etc/a{number}", f"web/etc/b{number}")

        def upload(at: int, _number: int, content: bytes = content, number: int = number, spec: Any = spec) -> Any:
            tasks = fleet[at].client.upload(content, spec=spec, request_id=f"both-{number}")
            return [task.id for task in tasks]

        answers = concurrently(fleet, 4, upload)
        assert all(answer == answers[0] for answer in answers), answers
    payload_id = fleet[0].client.get(answers[0][0]).payload.id

    def submit(at: int, number: int) -> Any:
        spec = push_spec("web/etc/c")
        return fleet[at].client.submit(spec=spec, payload_id=payload_id, request_id=f"both-again-{number // 4}")[0].id

    made = concurrently(fleet, 8, submit)
    assert len(set(made)) == 2, made
    with fleet.worker(at=[0]):
        eventually(lambda: all(task.done for task in fleet[1].client.list()), what="all are done")
    rows = fleet.rows(
        "SELECT request_id, count(*) FROM submissions WHERE request_id LIKE 'both-%%' GROUP BY 1 ORDER BY 1"
    )
    assert rows == [("both-0", 2), ("both-1", 2), ("both-again-0", 1), ("both-again-1", 1)]
    assert {fleet.history(one)[-1] for one in made} == {State.SUCCEEDED}
    # A retry of one task, asked for at both: one new task.
    failed = fleet[0].push(b"x", "nowhere/etc/motd")
    with fleet.worker(at=[1]):
        fleet[0].reaches(failed, task_pb2.TASK_STATE_FAILED)
    again = concurrently(fleet, 4, lambda at, _number: fleet[at].client.retry(failed, request_id="again").id)
    assert len(set(again)) == 1, again
    assert fleet[1].client.get(again[0]).retry_of == failed
    cancel_all(fleet)
    eventually(lambda: not fleet[0].client.stats().uploads, what="no upload is open")
