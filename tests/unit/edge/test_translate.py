"""Tasks as the contract's messages: whatever a task knows is said, and a default is not."""

from __future__ import annotations

from dataclasses import replace

from longshore.server.edge.messages import translate
from longshore.server.model.task import AnyValue, Attempt, Failure, Job, Payload, Status, Task, Terms
from longshore.server.model.values import DeliveryMethod, State, WaitReason
from longshore.v1 import task_pb2
from tests.support.stores.tasks import submission

JOB = Job("count", AnyValue("type.example.org/a.B", b"x"), "here", "web")
SUBMITTED = submission(JOB, terms=Terms(run_timeout=60.5), expires_at=2000.25, created_at=1000.5)


def test_every_field_of_a_task_is_translated() -> None:
    status = Status(
        revision=3,
        state=State.FAILED,
        head=True,
        wait_reason=WaitReason.BACK_OFF,
        due_at=5.0,
        attempt=2,
        tries=1,
        crashes=1,
        worker="w",
        started_at=6.0,
        cancel_requested=True,
        cancel_reason="why",
        error=Failure("REASON", "message"),
        result=AnyValue("t", b"v"),
        method=DeliveryMethod.SFTP,
        finished_at=7.0,
        retryable_until=8.0,
        superseded_by="t9",
    )
    known = replace(
        SUBMITTED,
        terms=Terms(
            priority=4,
            labels={"a": "b"},
            run_timeout=60.5,
            stall_timeout=9.0,
            description="why",
            after=("t1",),
            after_any_end=True,
        ),
        payload=Payload("p", 1, 2),
        retry_of="t0",
        retried_by="boss",
    )
    message = translate.task(Task(known, status), attempts=[Attempt(2, "w", "s", 6.0)])
    said = {field.name for field, _ in message.ListFields()}
    # A new field of the contract belongs into the message, or here.
    elsewhere = {"file_push", "blocked_by", "wait_detail"}
    assert said == {field.name for field in task_pb2.Task.DESCRIPTOR.fields} - elsewhere
    assert message.job.arguments.value == b"x"
    assert (message.create_time.seconds, message.create_time.nanos) == (1000, 500_000_000)
    assert (message.run_timeout.seconds, message.run_timeout.nanos) == (60, 500_000_000)
    assert (message.labels["a"], message.worker, message.retry_of) == ("b", "w", "t0")
    assert (message.retried_by, message.description) == ("boss", "why")


def test_a_blocked_task_names_the_task_that_blocks_it() -> None:
    message = translate.task(Task(SUBMITTED, Status(revision=1, state=State.BLOCKED, head=False)), blocked_by="t0")
    assert message.blocked_by == "t0"
    assert message.wait_reason == task_pb2.WAIT_REASON_EARLIER_TASK
    queued = translate.task(Task(SUBMITTED, Status(revision=1, state=State.QUEUED, head=True)), blocked_by="t0")
    assert not queued.blocked_by


def test_a_time_of_nothing_is_still_said() -> None:
    message = translate.task(
        Task(replace(SUBMITTED, terms=Terms(run_timeout=0.0)), Status(revision=1, state=State.QUEUED, head=True))
    )
    assert message.HasField("run_timeout")
