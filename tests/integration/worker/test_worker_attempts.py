"""Attempts end in many ways: told to stop, out of time, hanging, failed; before the grant and after it."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import threading
import time
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from longshore.client import job_spec, result_of
from longshore.v1 import task_pb2
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker import (
    AsyncContext,
    Context,
    Exit,
    GrantRefused,
    NotReadyError,
    OutcomeUnknown,
    PermanentError,
    Registry,
    Settlement,
    StopReason,
    TransientError,
)
from tests.support.servers.fakeserver import WITHIN, heard, job, names, soon
from tests.support.workers.gate import Gate, Hang, until
from tests.support.workers.working import Start

# Told to stop --------------------------------------------------------------------------------------------------------


async def test_cancel_stops_a_thread_at_its_next_check(start: Start) -> None:
    gate = Gate()
    server, _ = await start(gate.registry)
    peer = await server.peer()
    ref = peer.assign(job("T1", "gate"))
    await gate.running()
    peer.cancel(ref)
    assert (await peer.report()).outcome == ws.OUTCOME_STOPPED
    assert gate.stopped == [StopReason.CANCELLED]


async def test_cancel_cancels_a_coroutine(start: Start) -> None:
    registry = Registry()
    entered, cleaned = threading.Event(), threading.Event()

    @registry.handler("wait")
    async def wait(context: AsyncContext) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    server, _ = await start(registry)
    peer = await server.peer()
    ref = peer.assign(job("T1", "wait"))
    assert await asyncio.to_thread(entered.wait, WITHIN)
    peer.cancel(ref)
    assert (await peer.report()).outcome == ws.OUTCOME_STOPPED
    assert cleaned.is_set()


async def test_a_coroutine_cancelled_in_the_message_that_assigned_it_is_reported(start: Start) -> None:
    registry = Registry()

    @registry.handler("wait")
    async def wait(context: AsyncContext) -> None:
        await asyncio.Event().wait()

    server, _ = await start(registry)
    peer = await server.peer()
    for number in range(1, 20):
        ref = ws.AttemptRef(task_id="T1", attempt=number)
        peer.say(
            assignments=[ws.Assignment(task=job("T1", "wait"), attempt=number)],
            cancels=[ws.Cancel(attempt=ref)],
        )
        report = await peer.report()
        assert (report.attempt, report.outcome) == (ref, ws.OUTCOME_STOPPED)


async def test_cancel_ends_the_wait_for_a_grant(start: Start) -> None:
    gate = Gate(commits=True)
    server, _ = await start(gate.registry)
    peer = await server.peer()
    ref = peer.assign(job("T1", "gate"))
    await peer.grant_request()
    peer.cancel(ref)
    assert (await peer.report()).outcome == ws.OUTCOME_STOPPED
    # A grant that was on its way is not acted upon.
    peer.grant(ref)
    await heard(peer)
    assert gate.committed == 0


async def test_cancel_after_the_grant_is_too_late(start: Start) -> None:
    gate = Gate(commits=True)
    server, _ = await start(gate.registry)
    peer = await server.peer()
    ref = peer.assign(job("T1", "gate"))
    await peer.grant_request()
    peer.say(grants=[ws.Grant(attempt=ref, granted=True)], cancels=[ws.Cancel(attempt=ref)])
    await until(lambda: gate.committed == 1)
    await heard(peer)
    assert gate.stopped == []
    gate.open.set()
    assert (await peer.report()).outcome == ws.OUTCOME_OK


async def test_a_refused_grant_never_commits(start: Start) -> None:
    refused: list[GrantRefused] = []
    registry = Registry()

    @registry.handler("commit")
    async def commit(context: AsyncContext) -> None:
        try:
            await context.commit("/temp", mode=0o600, uid=1, gid=2, crc32c=3, method="SFTP")
        except GrantRefused as error:
            refused.append(error)
            raise

    server, _ = await start(registry)
    peer = await server.peer()
    ref = peer.assign(job("T1", "commit"))
    asked = await peer.grant_request()
    assert (asked.temp, asked.mode, asked.uid, asked.gid, asked.crc32c) == ("/temp", 0o600, 1, 2, 3)
    assert asked.delivery_method == task_pb2.DELIVERY_METHOD_SFTP
    peer.grant(ref, granted=False, reason="CANCELLED")
    assert (await peer.report()).outcome == ws.OUTCOME_STOPPED
    assert [error.why for error in refused] == [StopReason.CANCELLED]


async def test_a_coroutine_may_stop_waiting_for_its_grant_and_ask_again(start: Start) -> None:
    registry = Registry()
    gave_up = threading.Event()

    @registry.handler("impatient")
    async def impatient(context: AsyncContext) -> None:
        try:
            async with asyncio.timeout(0.05):
                await context.commit("/temp")
        except TimeoutError:
            gave_up.set()
        await context.commit("/temp")

    server, _ = await start(registry)
    peer = await server.peer()
    ref = peer.assign(job("T1", "impatient"))
    await peer.grant_request()
    await until(gave_up.is_set)
    peer.grant(ref)
    assert (await peer.report()).outcome == ws.OUTCOME_OK


async def test_cancel_before_the_start_runs_nothing(start: Start) -> None:
    gate = Gate()
    server, _ = await start(gate.registry)
    peer = await server.peer()
    peer.assign(job("T1", "gate"))
    await gate.running()
    ref = peer.assign(job("T2", "gate"), alone=True)
    peer.cancel(ref)
    report = await peer.report()
    assert (report.attempt, report.outcome) == (ref, ws.OUTCOME_STOPPED)
    gate.open.set()
    await peer.report()
    assert not gate.entered.acquire(blocking=False)


# Alone ---------------------------------------------------------------------------------------------------------------


async def test_a_solo_attempt_starts_after_its_begin_is_answered_and_asks_each_server(start: Start) -> None:
    gate = Gate()
    server, _ = await start(gate.registry)
    first = await server.peer()
    # The first server is an older one: it takes no begins, and the attempt starts at once.
    old = first.assign(job("T1", "gate"), alone=True)
    await gate.running()
    gate.open.set()
    assert (await first.report()).attempt == old
    assert first.nothing_begins
    gate.open.clear()
    server.begins = True
    first.end(grpc.StatusCode.UNAVAILABLE)
    second = await server.peer()
    assert second.hello.begins
    ref = second.assign(job("T2", "gate"), alone=True)
    assert await second.begin() == ref
    assert not gate.entered.acquire(blocking=False)
    # The answer is lost with the connection.
    second.end(grpc.StatusCode.UNAVAILABLE)
    third = await server.peer()
    assert names(third.hello.held) == {("T2", 1)}
    assert await third.begin() == ref
    assert not gate.entered.acquire(blocking=False)
    third.begun(ref)
    await gate.running()
    gate.open.set()
    assert (await third.report()).outcome == ws.OUTCOME_OK
    beside = third.assign(job("T3", "gate"))
    assert (await third.report()).attempt == beside
    assert third.nothing_begins, "what is not alone asks nobody"


@pytest.mark.parametrize("reason", ["CANCELLED", "REVOKED"])
async def test_a_refused_begin_runs_no_handler(start: Start, reason: str) -> None:
    gate = Gate()
    server, _ = await start(gate.registry)
    first = await server.peer()
    server.begins = True
    first.end(grpc.StatusCode.UNAVAILABLE)
    peer = await server.peer()
    ref = peer.assign(job("T1", "gate"), alone=True)
    assert await peer.begin() == ref
    peer.begun(ref, begun=False, reason=reason)
    if reason == "CANCELLED":
        report = await peer.report()
        assert (report.attempt, report.outcome) == (ref, ws.OUTCOME_STOPPED)
    await heard(peer)
    assert peer.nothing_reported
    assert not gate.entered.acquire(blocking=False)


# Out of time ---------------------------------------------------------------------------------------------------------


async def test_run_timeout_is_a_transient_error(start: Start) -> None:
    gate = Gate()
    server, _ = await start(gate.registry)
    peer = await server.peer()
    peer.assign(job("T1", "gate", run_timeout=0.3))
    report = await peer.report()
    assert (report.outcome, report.error.reason) == (ws.OUTCOME_TRANSIENT, "TIMED_OUT")
    assert gate.stopped == [StopReason.TIMEOUT]


async def test_stall_timeout_is_put_off_by_progress(start: Start) -> None:
    registry = Registry()

    @registry.handler("crawl")
    def crawl(context: Context) -> None:
        for step in range(8):
            context.progress(step, 8)
            context.sleep(0.1)
        context.sleep(WITHIN)

    server, _ = await start(registry)
    peer = await server.peer()
    began = time.monotonic()
    peer.assign(job("T1", "crawl", stall_timeout=0.5))
    report = await peer.report()
    assert (report.outcome, report.error.reason) == (ws.OUTCOME_TRANSIENT, "STALLED")
    assert time.monotonic() - began > 1.0


async def test_waiting_for_the_servers_answer_is_no_stall_but_ends_with_the_run(start: Start) -> None:
    gate = Gate(commits=True)
    server, _ = await start(gate.registry)
    peer = await server.peer()
    peer.assign(job("T1", "gate", stall_timeout=0.2, run_timeout=0.9))
    report = await peer.report()
    assert (report.outcome, report.error.reason) == (ws.OUTCOME_TRANSIENT, "TIMED_OUT")
    assert gate.committed == 0


# Hanging -------------------------------------------------------------------------------------------------------------


async def test_a_hanging_handler_meets_its_timeout_and_silences_no_heartbeat(start: Start) -> None:
    hang = Hang()
    server, _ = await start(hang.registry, stop_grace=0.3)
    server.lease = 0.8
    peer = await server.peer()
    peer.assign(job("T1", "hang", run_timeout=0.3))
    await hang.running()
    report = await peer.report()
    assert (report.outcome, report.error.reason) == (ws.OUTCOME_TRANSIENT, "TIMED_OUT")
    assert report.left_temps
    before = len(peer.heartbeats)
    await peer.until(lambda: len(peer.heartbeats) >= before + 5)
    # The thread is still there, and keeps its credit until it ends.
    await peer.until(lambda: peer.credits[-1] == 7)
    hang.release.set()
    await peer.until(lambda: peer.credits[-1] == 8)
    await heard(peer)
    assert peer.nothing_reported


async def test_a_coroutine_that_blocks_its_loop_silences_no_heartbeat_either(start: Start) -> None:
    registry = Registry()
    release = threading.Event()

    @registry.handler("block")
    async def block(context: AsyncContext) -> None:
        release.wait(WITHIN)

    server, _ = await start(registry, stop_grace=0.2)
    server.lease = 0.8
    peer = await server.peer()
    peer.assign(job("T1", "block", run_timeout=0.2))
    before = len(peer.heartbeats)
    await peer.until(lambda: len(peer.heartbeats) >= before + 5)
    assert (await peer.report()).error.reason == "TIMED_OUT"
    release.set()


async def test_a_handler_that_hangs_after_the_grant_leaves_the_outcome_open(start: Start) -> None:
    hang = Hang(commits=True)
    server, _ = await start(hang.registry, stop_grace=0.2)
    peer = await server.peer()
    ref = peer.assign(job("T1", "hang", run_timeout=0.4))
    await peer.grant_request()
    peer.grant(ref)
    report = await peer.report()
    assert (report.outcome, report.error.reason) == (ws.OUTCOME_UNKNOWN, "OUTCOME_UNKNOWN")
    hang.release.set()


async def test_an_abandoned_handler_gets_no_grant(start: Start) -> None:
    registry = Registry()
    release = threading.Event()
    came_to: list[str] = []

    @registry.handler("late")
    def late(context: Context) -> None:
        release.wait(WITHIN)
        try:
            context.commit("/temp")
        except BaseException as error:
            came_to.append(type(error).__name__)
            raise
        came_to.append("granted")

    server, _ = await start(registry, stop_grace=0.2)
    peer = await server.peer()
    peer.assign(job("T1", "late", run_timeout=0.2))
    assert (await peer.report()).outcome == ws.OUTCOME_TRANSIENT
    release.set()
    await until(lambda: bool(came_to))
    assert came_to == ["AttemptStopped"]


async def test_too_many_hanging_handlers_and_the_worker_leaves_to_be_started_anew(start: Start) -> None:
    hang = Hang()
    server, worker = await start(hang.registry, stop_grace=0.2, concurrency=4, max_wedged=1)
    peer = await server.peer()
    for number in (1, 2):
        peer.assign(job(f"T{number}", "hang", run_timeout=0.2))
    assert {(await peer.report()).error.reason for _ in range(2)} == {"TIMED_OUT"}
    await soon(peer.goodbye.wait())
    assert await start.ended(worker) is Exit.WORN_OUT
    hang.release.set()


async def test_a_cancelled_handler_that_does_not_end_is_given_up_after_the_servers_grace(start: Start) -> None:
    hang = Hang()
    server, _ = await start(hang.registry, stop_grace=WITHIN * 2)
    peer = await server.peer()
    ref = peer.assign(job("T1", "hang"))
    await hang.running()
    peer.cancel(ref, grace=0.3)
    report = await peer.report()
    assert (report.outcome, report.left_temps) == (ws.OUTCOME_TRANSIENT, True)
    hang.release.set()


async def test_a_temp_that_no_server_would_take_is_refused_here_and_cuts_no_session(start: Start) -> None:
    registry = Registry()

    @registry.handler("wrong")
    def wrong(context: Context) -> None:
        context.commit("relative")

    server, _ = await start(registry)
    peer = await server.peer()
    peer.assign(job("T1", "wrong"))
    report = await peer.report()
    assert report.outcome == ws.OUTCOME_TRANSIENT
    assert "relative" in report.error.message


# Failed --------------------------------------------------------------------------------------------------------------


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
