"""The outbox decides which words go together, which replace others, and how many fit into one message."""

from __future__ import annotations

import asyncio

from google.protobuf.wrappers_pb2 import BytesValue

from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.agent.outbox import Outbox
from longshore.worker.attempts.attempt import Key, ref_of

A: Key = ("A", 1)
B: Key = ("B", 2)


def report(key: Key, size: int = 0) -> ws.Report:
    made = ws.Report(attempt=ref_of(key), outcome=ws.OUTCOME_OK)
    if size:
        made.result.Pack(BytesValue(value=bytes(size)))
    return made


async def test_everything_that_waits_goes_into_one_message() -> None:
    outbox = Outbox()
    outbox.credits(3)
    outbox.heartbeat(7)
    outbox.report(A, report(A))
    outbox.ask(B, ws.GrantRequest(attempt=ref_of(B), temp="t"))
    outbox.progress({B: (1, 2)})
    outbox.ready("target", "", "c1", running=True)
    outbox.debt("D", paid=True)
    message, last = await outbox.take()
    assert not last
    assert (message.credits, message.heartbeat.sequence) == (3, 7)
    assert [item.attempt.task_id for item in message.reports] == ["A"]
    assert [item.temp for item in message.grant_requests] == ["t"]
    assert [(item.done, item.total) for item in message.progress] == [(1, 2)]
    assert [item.instance.instance for item in message.ready] == ["c1"]
    assert [item.debt_id for item in message.debts] == ["D"]
    assert not message.HasField("goodbye")


async def test_the_newest_value_replaces_an_unsent_one() -> None:
    outbox = Outbox()
    for value in (1, 2, 3):
        outbox.credits(value)
        outbox.heartbeat(value)
        outbox.progress({A: (value, 3)})
    message, _ = await outbox.take()
    assert (message.credits, message.heartbeat.sequence) == (3, 3)
    assert [item.done for item in message.progress] == [3]


async def test_a_report_makes_its_progress_worthless() -> None:
    outbox = Outbox()
    outbox.progress({A: (1, 2), B: (1, 2)})
    outbox.report(A, report(A))
    message, _ = await outbox.take()
    assert [item.attempt.task_id for item in message.progress] == ["B"]


async def test_large_results_are_spread_over_messages_and_the_goodbye_is_last() -> None:
    outbox = Outbox()
    keys = [(f"T{number}", 1) for number in range(100)]
    for key in keys:
        outbox.report(key, report(key, 64_000))
    outbox.goodbye()
    said: list[str] = []
    last = False
    while not last:
        message, last = await outbox.take()
        assert message.ByteSize() < 2 * 1024 * 1024
        assert message.HasField("goodbye") == last
        said += [item.attempt.task_id for item in message.reports]
    assert said == [key[0] for key in keys]


async def test_nothing_to_say_waits() -> None:
    outbox = Outbox()
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    assert not taking.done()
    outbox.heartbeat(1)
    assert (await taking)[0].heartbeat.sequence == 1


async def test_the_end_of_a_connection_leaves_nothing_behind() -> None:
    outbox = Outbox()
    outbox.report(A, report(A))
    outbox.credits(1)
    outbox.goodbye()
    outbox.clear()
    outbox.heartbeat(1)
    message, last = await outbox.take()
    assert message == ws.WorkRequest(heartbeat=ws.Heartbeat(sequence=1))
    assert not last


async def test_a_withdrawn_message_is_not_sent() -> None:
    outbox = Outbox()
    outbox.report(A, report(A))
    outbox.ask(A, ws.GrantRequest(attempt=ref_of(A)))
    outbox.progress({A: (1, 1)})
    outbox.withdraw(A)
    message, _ = await outbox.take()
    assert message == ws.WorkRequest()


async def test_reports_of_one_turn_of_the_loop_share_a_message() -> None:
    outbox = Outbox()
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    for number in range(100):
        key = (f"T{number}", 1)
        loop.call_soon(outbox.report, key, report(key))
    message, _ = await taking
    assert len(message.reports) == 100


async def test_grants_that_are_asked_for_in_one_turn_of_the_loop_share_a_message() -> None:
    outbox = Outbox()
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    for number in range(100):
        key = (f"T{number}", 1)
        loop.call_soon(outbox.ask, key, ws.GrantRequest(attempt=ref_of(key), temp="t"))
    message, _ = await taking
    assert len(message.grant_requests) == 100
