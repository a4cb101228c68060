"""The `file_push` kind through the same context that any handler gets, with a scripted server behind it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import google_crc32c
import pytest

from longshore.contract.enums import WhenAbsent, WhenStopped
from longshore.contract.temps import temps_of
from longshore.v1 import task_pb2
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.attempts.attempt import Attempt
from longshore.worker.attempts.context import AttemptResources, Context
from longshore.worker.attempts.handlers import Registry
from longshore.worker.attempts.payloads import PayloadFolder
from longshore.worker.attempts.threads import Threads
from longshore.worker.errors import AttemptStopped, GrantRefused, PermanentError, StopReason
from longshore.worker.file_push.handler import KIND, file_push, push_of, register, settle_file_push
from longshore.worker.targets import Attributes, Settlement
from longshore.worker.targets.directory.target import DirectoryTarget

CONTENT = b"content" * 1000


class NoDownloads:
    """The payload lies in a spool on the same disk."""

    def open(self, attempt: Attempt, offset: int) -> Generator[bytes]:
        raise AssertionError("nothing is downloaded here")


class Bench:
    """A root to push into, a payload, and the question that the server is asked."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "roots" / "box"
        self.root.mkdir(parents=True)
        self.payload = folder / "payload"
        self.payload.write_bytes(CONTENT)
        self.scratch = folder / "scratch"
        self.target = DirectoryTarget("t", str(self.root.parent))
        self.asked: list[ws.GrantRequest] = []
        self.answer: Callable[[Attempt], object] = Attempt.grant

    def context(self, task: task_pb2.Task, attempt: int = 1) -> tuple[Context, Attempt]:
        def ask(attempt: Attempt, request: ws.GrantRequest) -> None:
            self.asked.append(request)
            self.answer(attempt)

        assignment = ws.Assignment(task=task, attempt=attempt, payload_path=str(self.payload))
        running = Attempt(assignment, ask=ask)
        resources = AttemptResources(
            downloads=NoDownloads(),
            folder=PayloadFolder(self.scratch, "session"),
            targets={"t": self.target},
            threads=Threads("test", limit=1),
        )
        return Context(running, resources), running


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def a_task(**push: object) -> task_pb2.Task:
    task = task_pb2.Task(
        id="01JCEXAMPLE000000000000000",
        file_push=task_pb2.FilePush(
            destination=task_pb2.Destination(target="t", instance="box", path="/etc/motd"),
            create_parents=True,
            **push,  # type: ignore[arg-type]
        ),
    )
    task.payload.size = len(CONTENT)
    task.payload.crc32c = google_crc32c.value(CONTENT)
    return task


def test_a_task_is_delivered_and_its_grant_has_the_facts_for_settling(bench: Bench) -> None:
    context, _ = bench.context(a_task(mode=0o640))
    file_push(context)
    context.close()
    assert (bench.root / "etc/motd").read_bytes() == CONTENT
    [request] = bench.asked
    assert request.temp == temps_of("/etc/motd", "01JCEXAMPLE000000000000000", 1)[0]
    assert request.delivery_method == task_pb2.DELIVERY_METHOD_DIRECTORY
    assert request.crc32c == google_crc32c.value(CONTENT)
    assert (request.mode, request.uid, request.gid) == (0o640, 0, 0)


def test_refused_grant_leaves_nothing(bench: Bench) -> None:
    bench.answer = lambda attempt: attempt.refuse("CANCELLED")
    context, _ = bench.context(a_task())
    with pytest.raises(GrantRefused):
        file_push(context)
    context.close()
    assert list((bench.root / "etc").iterdir()) == []


def test_stop_before_the_start(bench: Bench) -> None:
    context, attempt = bench.context(a_task())
    attempt.tell_stop(StopReason.CANCELLED)
    with pytest.raises(AttemptStopped):
        file_push(context)
    assert bench.asked == []


def test_target_that_is_not_served(bench: Bench) -> None:
    task = a_task()
    task.file_push.destination.target = "elsewhere"
    context, _ = bench.context(task)
    with pytest.raises(PermanentError, match="elsewhere"):
        file_push(context)


def test_settle_order(bench: Bench) -> None:
    temp = temps_of("/etc/motd", "01JCEXAMPLE000000000000000", 1)[0]
    order = ws.SettleOrder(
        granted_attempt=1,
        temp=temp,
        crc32c=google_crc32c.value(CONTENT),
        mode=0o644,
        uid=0,
        gid=0,
        delivery_method=task_pb2.DELIVERY_METHOD_DIRECTORY,
    )
    (bench.root / "etc").mkdir()

    def settle() -> Settlement:
        context, _ = bench.context(a_task(), attempt=2)
        return settle_file_push(context, order)

    assert settle() is Settlement.NEITHER
    (bench.root / temp.lstrip("/")).write_bytes(CONTENT)
    assert settle() is Settlement.REMOVED
    (bench.root / "etc/motd").write_bytes(CONTENT)
    (bench.root / "etc/motd").chmod(0o644)
    assert settle() is Settlement.LANDED
    (bench.root / "etc/motd").chmod(0o600)
    assert settle() is Settlement.NEITHER


def test_words_of_the_contract() -> None:
    push = push_of(a_task(), 3)
    assert (push.attempt, push.attributes, push.replace) == (3, Attributes(), True)
    assert (push.when_stopped, push.when_absent) == (WhenStopped.DELIVER, WhenAbsent.FAIL)
    push = push_of(
        a_task(
            mode=0,
            uid=0,
            if_exists=task_pb2.IF_EXISTS_FAIL,
            when_stopped=task_pb2.WHEN_STOPPED_WAIT,
            when_absent=task_pb2.WHEN_ABSENT_WAIT,
            read_back=True,
        ),
        1,
    )
    assert push.attributes == Attributes(mode=0, uid=0, gid=None), "zero is a value, and not the lack of one"
    assert (push.replace, push.read_back) == (False, True)
    assert (push.when_stopped, push.when_absent) == (WhenStopped.WAIT, WhenAbsent.WAIT)
    words: dict[str, list[int]] = {
        "when_stopped": list(task_pb2.WhenStopped.values()),
        "when_absent": list(task_pb2.WhenAbsent.values()),
        "if_exists": list(task_pb2.IfExists.values()),
    }
    for field, values in words.items():
        for value in values:
            push_of(a_task(**{field: value}), 1)


def test_word_that_this_worker_does_not_know() -> None:
    task = a_task()
    task.file_push.when_stopped = 99  # type: ignore[assignment]
    with pytest.raises(PermanentError, match="upgrade the worker"):
        push_of(task, 1)


def test_kind_is_registered_with_its_settling() -> None:
    registry = Registry()
    register(registry)
    handler = registry.get(KIND)
    assert handler is not None
    assert handler.settle is settle_file_push
