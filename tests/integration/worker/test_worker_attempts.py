"""Attempts are told to stop, run alone, run out of time and hang, before the grant and after it."""

from __future__ import annotations

import asyncio
import threading
import time

import grpc
import pytest

from longshore.v1 import task_pb2
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker import (
    AsyncContext,
    Context,
    Exit,
    GrantRefused,
    Registry,
    StopReason,
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
