from __future__ import annotations

import asyncio

import pytest

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
from longshore.server.engine.sessions.outbox import (
    ASSIGNED_BYTES_AT_ONCE,
    ASSIGNMENTS_AT_ONCE,
    BULKY_AT_ONCE,
    Outbox,
)
from longshore.server.model.task import Destination
from longshore.server.store.commands import GrantAnswer
from tests.support.stores.tasks import job

REF = AttemptRef("task-1", 1)


async def test_everything_said_in_one_turn_is_one_message() -> None:
    outbox = Outbox()
    outbox.welcome(Welcome(1, 6.0, ()))
    outbox.assign(Assignment(job()))
    outbox.grant(GrantAnswer("task-2", 1, True))
    outbox.ack(ReportAck(AttemptRef("task-3", 1), True))
    outbox.heartbeat(7)
    assert len(outbox) == 5
    assert await outbox.ready()
    says = outbox.take()
    assert says.welcome is not None
    assert [one.ref for one in says.assignments] == [REF]
    assert [one.task_id for one in says.grants] == ["task-2"]
    assert [one.ref.task_id for one in says.acks] == ["task-3"]
    assert says.heartbeat_ack == 7
    assert len(outbox) == 0


async def test_a_lone_assignment_waits_for_no_turn_of_the_loop() -> None:
    outbox = Outbox()
    outbox.assign(Assignment(job()))
    waits = outbox.ready(lambda: False)
    with pytest.raises(StopIteration) as done:
        waits.send(None)
    assert done.value.value is True
    waits = outbox.ready(lambda: True)
    assert waits.send(None) is None
    outbox.ack(ReportAck(AttemptRef("task-3", 1), True))
    with pytest.raises(StopIteration):
        waits.send(None)
    says = outbox.take()
    assert len(says.assignments) == len(says.acks) == 1


async def test_newer_words_take_the_place_of_older_ones() -> None:
    outbox = Outbox()
    for sequence in (3, 5, 4):
        outbox.heartbeat(sequence)
    outbox.ack(ReportAck(REF, True))
    outbox.ack(ReportAck(REF, False))
    destination = Destination("t", "", "c1", "")
    outbox.parked(ParkedInstances("t", (destination,)))
    outbox.parked(ParkedInstances("t", ()))
    says = outbox.take()
    assert says.heartbeat_ack == 5
    assert says.acks == (ReportAck(REF, False),)
    assert says.parked == (ParkedInstances("t", ()),)


async def test_cancel_never_comes_before_or_with_its_assignment() -> None:
    outbox = Outbox()
    outbox.assign(Assignment(job()))
    outbox.cancel(CancelOrder(REF, 30.0))
    first, second = outbox.take(), outbox.take()
    assert [one.ref for one in first.assignments] == [REF]
    assert first.cancels == ()
    assert second.cancels == (CancelOrder(REF, 30.0),)


async def test_an_assignment_revoked_before_it_was_sent_is_never_sent() -> None:
    outbox = Outbox()
    outbox.assign(Assignment(job()))
    outbox.cancel(CancelOrder(REF, 30.0))
    outbox.revoke(Revocation(REF, "TIMED_OUT"))
    assert len(outbox) == 0
    outbox.revoke(Revocation(REF, "TIMED_OUT"))
    assert outbox.take().revocations == (Revocation(REF, "TIMED_OUT"),)


async def test_messages_stay_small() -> None:
    outbox = Outbox()
    for number in range(ASSIGNMENTS_AT_ONCE + 1):
        outbox.assign(Assignment(job(f"small-{number}")))
    assert len(outbox.take().assignments) == ASSIGNMENTS_AT_ONCE
    assert len(outbox.take().assignments) == 1
    for number in range(64):
        outbox.assign(Assignment(job(f"large-{number}", arguments=bytes(64 * 1024))))
    sizes = []
    while len(outbox):
        taken = outbox.take().assignments
        sizes.append(sum(65 * 1024 for _ in taken))
    assert len(sizes) > 3
    assert max(sizes) <= ASSIGNED_BYTES_AT_ONCE
    for number in range(BULKY_AT_ONCE + 1):
        outbox.debt(DebtOrder(f"debt-{number}", Destination("t", "", "c1", "/f"), ("/t",)))
    assert len(outbox.take().debts) == BULKY_AT_ONCE
    assert len(outbox.take().debts) == 1


async def test_one_assignment_larger_than_a_message_should_be_goes_all_the_same() -> None:
    outbox = Outbox()
    outbox.assign(Assignment(job(arguments=bytes(2 * ASSIGNED_BYTES_AT_ONCE))))
    assert len(outbox.take().assignments) == 1


async def test_ready_waits_and_a_closed_outbox_is_emptied_first() -> None:
    outbox = Outbox()
    waiting = asyncio.create_task(outbox.ready())
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.drain("an operator says so")
    outbox.close()
    assert await waiting
    assert outbox.take().drain == "an operator says so"
    assert not await outbox.ready()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Outbox().ready()
