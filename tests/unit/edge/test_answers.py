"""P3, P4: the largest entries that the limits of their fields allow fit an answer, and so do messages made of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from longshore.contract import limits
from longshore.contract.temps import temps_of
from longshore.server.edge.messages import translate
from longshore.server.edge.messages import worker as worker_messages
from longshore.server.edge.messages.answer_room import MOST_BYTES, AnswerRoom, fitting
from longshore.server.edge.status import status_of
from longshore.server.engine.sessions.messages import (
    Assignment,
    AttemptRef,
    CancelOrder,
    DebtOrder,
    ParkedInstances,
    ReportAck,
    Revocation,
    Welcome,
)
from longshore.server.engine.sessions.outbox import Outbox
from longshore.server.engine.sessions.parking import MOST_INSTANCES
from longshore.server.model.errors import InvalidField
from longshore.server.model.task import (
    AnyValue,
    Attempt,
    Destination,
    Failure,
    FilePush,
    Grant,
    Job,
    Payload,
    Status,
    Submission,
    Task,
    Terms,
)
from longshore.server.model.values import AttemptEnd, DeliveryMethod, State
from longshore.server.store.commands import BeginAnswer, GrantAnswer
from longshore.v1 import admin_service_pb2
from longshore.v1 import task_service_pb2 as pb

RECEIVED = 4 << 20
"""A caller takes messages of so many bytes: gRPC's own limit."""
WIDE = "\U0001f6a2"
"""A character of four bytes: limits are in characters, messages in bytes."""
NAME = "n" * 63
PATH = "/" + "/".join("p" * 255 for _ in range(16))
LABELS = {f"{number:02}{'k' * 61}": WIDE * 255 for number in range(32)}
FAILURE = Failure("R" * 63, WIDE * worker_messages.LONGEST_TEXT, True)
DESTINATION = Destination(NAME, WIDE * 63, NAME, PATH)
GRANT = Grant(1, "s" * 64, "/" + WIDE * 4095, DeliveryMethod.DIRECTORY, 1.0, 2**32 - 1, 0o777, 2**32 - 2, 2**32 - 2)

STATUS = Status(
    revision=2**63,
    state=State.FAILED,
    head=True,
    attempt=2**31 - 1,
    tries=100,
    crashes=100,
    session_id="s" * 64,
    worker=NAME,
    started_at=2.0,
    grant=GRANT,
    cancel_requested=True,
    cancel_reason=WIDE * 500,
    error=FAILURE,
    result=AnyValue(WIDE * worker_messages.LONGEST_TYPE, bytes(limits.LARGEST_RESULT)),
    method=DeliveryMethod.DIRECTORY,
    updated_at=3.0,
    finished_at=3.0,
    retryable_until=4.0,
)
ATTEMPT = Attempt(
    2**31 - 1, NAME, "s" * 64, 1.0, settling=True, alone=True, granted_at=2.0, ended_at=3.0,
    end=AttemptEnd.SETTLED_NEITHER, error=FAILURE,
)  # fmt: skip
JOB = Job(NAME, AnyValue("t" * 100, bytes(64 << 10)), NAME, NAME)
PUSH = FilePush(DESTINATION, mode=0o777, uid=2**32 - 2, gid=2**32 - 2, create_parents=True, read_back=True)


def largest(work: FilePush | Job, number: int = 1) -> Task:
    """A task with every field at its limit."""
    submission = Submission(
        seq=number,
        id=f"{number:026}",
        creator="c" * 200,
        request_id="r" * 128,
        work=work,
        terms=Terms(
            queue=NAME,
            priority=-100,
            labels=LABELS,
            run_timeout=7 * 86400.0,
            stall_timeout=7 * 86400.0,
            attempt_limit=100,
            description="\U0001f6a2" * 500,
        ),
        payload=Payload("p" * 64, 2**63, 2**32 - 1, bytes(32)),
        expires_at=2e9,
        created_at=1e9,
        retry_of="0" * 26,
    )
    return Task(submission, STATUS)


@pytest.mark.parametrize("work", [JOB, PUSH], ids=["job", "push"])
def test_the_largest_task_fits_an_answer_seven_times(work: FilePush | Job) -> None:
    message = translate.task(largest(work), attempts=[ATTEMPT] * translate.ATTEMPTS_SHOWN)
    # A developer who gives a task one more large field learns here how much that costs every answer.
    assert message.ByteSize() < MOST_BYTES // 7
    for field in ("labels", "error", "attempts", "cancel_reason"):
        assert field in {found.name for found, _ in message.ListFields()}, "the test forgot a field"


def test_a_list_ends_before_the_answer_is_too_large() -> None:
    one = translate.task(largest(JOB), attempts=[ATTEMPT] * translate.ATTEMPTS_SHOWN)
    tasks = fitting([one] * 1000, AnswerRoom(), at_least=1)
    assert 7 <= len(tasks) < 1000
    answer = pb.ListTasksResponse(tasks=tasks, next_page_token="t" * 200)
    assert RECEIVED // 4 < answer.ByteSize() <= RECEIVED // 2 + 1024
    assert len(fitting([one], AnswerRoom(1), at_least=1)) == 1, "a page without a task would never end"
    assert fitting([one], AnswerRoom(1)) == []


def test_the_largest_worker_fits_an_answer() -> None:
    worker = admin_service_pb2.Worker(
        session_id="s" * 64, name=NAME, targets=[NAME] * 1000, kinds=[NAME] * 1000, version=WIDE * 100
    )
    assert worker.ByteSize() < MOST_BYTES // 8


def test_the_largest_refusals_fit_their_stream() -> None:
    error = InvalidField("f" * 10_000, WIDE * 10_000)
    answer = pb.SubmissionAnswer(number=2**63, reason=error.reason, status=status_of(error).SerializeToString())
    ids = pb.SubmissionAnswer(number=2**63, task_ids=["0" * 26] * 1000)
    assert max(answer.ByteSize(), ids.ByteSize()) < 64 << 10


def crowded(outbox: Outbox, count: int) -> None:
    """Put in `count` of everything that can be said, each as large as it can be."""
    outbox.welcome(Welcome(1, 6.0, tuple(AttemptRef("t" * 64, number) for number in range(4000))))
    for number in range(count):
        ref = AttemptRef("t" * 64, number)
        outbox.begun(BeginAnswer(ref.task_id, number, False, "R" * 20))
        outbox.grant(GrantAnswer(ref.task_id, number, False, "R" * 20))
        outbox.revoke(Revocation(ref, "UNKNOWN_ATTEMPT"))
        outbox.ack(ReportAck(ref, True))
        outbox.cancel(CancelOrder(AttemptRef("u" * 64, number), 30.0))
    for number in range(100):
        status = replace(STATUS, state=State.SETTLING, attempt=number + 1, result=None)
        outbox.assign(Assignment(Task(largest(JOB, number + 1).submission, status), "/" + WIDE * 4095, bytes(16 << 10)))
        outbox.debt(DebtOrder(f"{number}", DESTINATION, temps_of(PATH, "t" * 64, 2**31 - 1)))
    for name in ("one", "two"):
        outbox.parked(ParkedInstances(name, (replace(DESTINATION, path=""),) * MOST_INSTANCES))


async def test_no_message_to_a_worker_is_too_large_for_it() -> None:
    outbox = Outbox()
    crowded(outbox, 6000)
    outbox.close()
    sizes = []
    while await outbox.ready():
        sizes.append(worker_messages.server_says(outbox.take(), version="1.0.0").ByteSize())
    assert max(sizes) < RECEIVED * 9 // 10
    assert len(sizes) > 1


async def test_a_long_list_of_parked_instances_holds_up_nothing_else() -> None:
    outbox = Outbox()
    crowded(outbox, 1)
    says = outbox.take()
    assert all((says.parked, says.assignments, says.begun, says.grants, says.revocations, says.acks, says.debts))
