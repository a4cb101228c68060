"""Attempts end in errors of each class, in settling, and in results that are plain values."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from longshore.client import job_spec, result_of
from longshore.v1 import task_pb2
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker import (
    AsyncContext,
    Context,
    NotReadyError,
    OutcomeUnknown,
    PermanentError,
    Registry,
    Settlement,
    TransientError,
)
from tests.support.servers.fakeserver import job
from tests.support.workers.gate import Gate, until
from tests.support.workers.working import Start

# Told to stop --------------------------------------------------------------------------------------------------------


def _fails_with(error: BaseException, *, commits: bool) -> Registry:
    registry = Registry()

    @registry.handler("fail")
    def fail(context: Context) -> None:
        if commits:
            context.commit("/temp")
        raise error

    return registry


@pytest.mark.parametrize(
    ("error", "before", "after", "reason"),
    [
        (TransientError("BUSY", "later"), ws.OUTCOME_TRANSIENT, ws.OUTCOME_TRANSIENT, "BUSY"),
        (PermanentError("NO", "never"), ws.OUTCOME_PERMANENT, ws.OUTCOME_PERMANENT, "NO"),
        (OutcomeUnknown("LOST", "who knows"), ws.OUTCOME_TRANSIENT, ws.OUTCOME_UNKNOWN, None),
        (ValueError("a defect"), ws.OUTCOME_TRANSIENT, ws.OUTCOME_UNKNOWN, None),
        (SystemExit(3), ws.OUTCOME_TRANSIENT, ws.OUTCOME_UNKNOWN, None),
    ],
)
async def test_errors_are_told_by_their_class(
    start: Start, error: BaseException, before: int, after: int, reason: str | None
) -> None:
    for commits, outcome in ((False, before), (True, after)):
        server, worker = await start(_fails_with(error, commits=commits))
        peer = await server.peer()
        ref = peer.assign(job("T1", "fail"))
        if commits:
            await peer.grant_request()
            peer.grant(ref)
        report = await peer.report()
        assert report.outcome == outcome
        if reason is not None:
            assert report.error.reason == reason
        worker.stop(grace=0)
        await start.ended(worker)


async def test_an_unclassified_error_is_reported_by_type_and_message_without_a_traceback(start: Start) -> None:
    server, _ = await start(_fails_with(ValueError("a defect"), commits=False))
    peer = await server.peer()
    peer.assign(job("T1", "fail"))
    report = await peer.report()
    assert report.error.reason == "HANDLER_ERROR"
    assert report.error.message == "the handler raised ValueError: a defect"


async def test_retry_after_and_wait_reason_are_passed_on(start: Start) -> None:
    registry = Registry()

    @registry.handler("later")
    def later(context: Context) -> None:
        raise TransientError("BUSY", "later", retry_after=2.5)

    @registry.handler("absent")
    def absent(context: Context) -> None:
        raise NotReadyError("INSTANCE_NOT_FOUND", "not there", condition="EXISTS")

    server, _ = await start(registry)
    peer = await server.peer()
    peer.assign(job("T1", "later"))
    assert (await peer.report()).retry_after == Duration(seconds=2, nanos=500_000_000)
    peer.assign(job("T2", "absent"))
    report = await peer.report()
    assert (report.outcome, report.wait_reason) == (ws.OUTCOME_NOT_READY, task_pb2.WAIT_REASON_INSTANCE_ABSENT)


async def test_an_unknown_kind_fails_for_good(start: Start) -> None:
    server, _ = await start(Gate().registry)
    peer = await server.peer()
    peer.assign(job("T1", "no-such"))
    report = await peer.report()
    assert (report.outcome, report.error.reason) == (ws.OUTCOME_PERMANENT, "UNKNOWN_KIND")


async def test_wrong_arguments_and_too_large_results_fail_for_good(start: Start) -> None:
    registry = Registry()

    @registry.handler("strict")
    def strict(context: Context) -> None:
        context.unpack(StringValue)

    @registry.handler("large")
    def large(context: Context) -> BytesValue:
        return BytesValue(value=bytes(70_000))

    server, _ = await start(registry)
    peer = await server.peer()
    peer.assign(job("T1", "strict", BytesValue(value=b"x")))
    assert (await peer.report()).error.reason == "INVALID_ARGUMENT"
    peer.assign(job("T2", "large"))
    report = await peer.report()
    assert (report.outcome, report.error.reason) == (ws.OUTCOME_PERMANENT, "RESULT_TOO_LARGE")


async def test_tries_within_an_attempt_end_with_the_last_error_or_a_stop(start: Start) -> None:
    registry = Registry()
    tries: list[str] = []

    @registry.handler("thrice")
    def thrice(context: Context) -> None:
        for one in context.retrying(tries=3):
            with one:
                tries.append(context.task.id)
                raise TransientError("BUSY", "later")

    @registry.handler("second")
    async def second(context: AsyncContext) -> None:
        async for one in context.retrying():
            with one:
                tries.append(context.task.id)
                if tries.count(context.task.id) < 2:
                    raise TransientError("BUSY", "later")

    @registry.handler("for-ever")
    def for_ever(context: Context) -> None:
        for one in context.retrying(tries=1000):
            with one:
                tries.append(context.task.id)
                raise TransientError("BUSY", "later")

    server, _ = await start(registry)
    peer = await server.peer()
    peer.assign(job("T1", "thrice"))
    assert (await peer.report()).error.reason == "BUSY"
    peer.assign(job("T2", "second"))
    assert (await peer.report()).outcome == ws.OUTCOME_OK
    ref = peer.assign(job("T3", "for-ever"))
    await until(lambda: "T3" in tries)
    peer.cancel(ref)
    assert (await peer.report()).outcome == ws.OUTCOME_STOPPED
    assert (tries.count("T1"), tries.count("T2")) == (3, 2)


# Settling ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Settlement.REMOVED, ws.OUTCOME_SETTLED_REMOVED),
        (Settlement.LANDED, ws.OUTCOME_SETTLED_LANDED),
        (Settlement.NEITHER, ws.OUTCOME_SETTLED_NEITHER),
    ],
)
async def test_a_kind_of_ones_own_settles(start: Start, answer: Settlement, outcome: int) -> None:
    registry = Registry()

    def settle(context: Context, order: ws.SettleOrder) -> Settlement:
        assert (order.granted_attempt, order.temp) == (4, "temp")
        return answer

    @registry.handler("own", settle=settle)
    def own(context: Context) -> None:
        raise AssertionError("a settling attempt runs nothing")

    server, _ = await start(registry)
    peer = await server.peer()
    assert [kind.settles for kind in peer.hello.kinds] == [True]
    peer.assign(job("T1", "own"), attempt=5, settle=ws.SettleOrder(granted_attempt=4, temp="temp"))
    assert (await peer.report()).outcome == outcome


# Plain values --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Doubling:
    width: int
    note: str = "none"


def _doubles() -> Registry:
    registry = Registry()

    @registry.handler("dataclass")
    def doubled(context: Context) -> Any:
        asked = context.unpack(Doubling)
        return dataclasses.replace(asked, width=asked.width * 2)

    @registry.handler("dict")
    async def reversed_(context: AsyncContext) -> Any:
        asked = context.unpack(dict)
        return {"types": [type(each).__name__ for each in asked.values()], "of": asked}

    @registry.handler("wrong")
    def wrong(context: Context) -> Any:
        return {"when": datetime(2026, 1, 1, tzinfo=UTC)} if context.unpack(dict).get("inside") else object()

    @registry.handler("committed")
    def committed(context: Context) -> Any:
        context.commit("/temp")
        return object()

    return registry


async def test_plain_values_come_in_and_go_out(start: Start) -> None:
    server, _ = await start(_doubles())
    peer = await server.peer()

    async def ran(kind: str, arguments: object = None) -> ws.Report:
        task = job(f"T{next(numbers)}", kind)
        task.job.CopyFrom(job_spec(kind, arguments).job)
        ref = peer.assign(task)
        if kind == "committed":
            await peer.grant_request()
            peer.grant(ref)
        return await peer.report()

    numbers = itertools.count(1)
    report = await ran("dataclass", {"width": 4})
    assert report.outcome == ws.OUTCOME_OK
    assert result_of(task_pb2.Task(result=report.result)) == {"width": 8, "note": "none"}
    report = await ran("dict", {"four": 4})
    assert result_of(task_pb2.Task(result=report.result)) == {"types": ["int"], "of": {"four": 4}}
    # No arguments are empty ones.
    assert result_of(task_pb2.Task(result=(await ran("dict")).result)) == {"types": [], "of": {}}
    for arguments in ({"height": 4}, None, StringValue(value="x")):
        report = await ran("dataclass", arguments)
        assert (report.outcome, report.error.reason) == (ws.OUTCOME_PERMANENT, "INVALID_ARGUMENT")
        assert "do not fit Doubling" in report.error.message
    report = await ran("wrong")
    assert (report.outcome, report.error.reason) == (ws.OUTCOME_PERMANENT, "HANDLER_ERROR")
    assert "the handler returned object: return a message, a dict" in report.error.message
    report = await ran("wrong", {"inside": True})
    assert (report.outcome, report.error.reason) == (ws.OUTCOME_PERMANENT, "HANDLER_ERROR")
    assert "the result['when'] is a datetime" in report.error.message
    # An attempt whose commit is granted cannot fail because of its result.
    report = await ran("committed")
    assert (report.outcome, report.HasField("result")) == (ws.OUTCOME_OK, False)
