"""The worker's side of the session: what it says, what it keeps, and what it says again."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from longshore.client.errors import FailedPrecondition
from longshore.v1 import worker_service_pb2 as ws
from longshore.v1.task_service_pb2 import GoAway
from longshore.worker import AsyncContext, Context, Registry, StopReason
from longshore.worker.process.service import Exit
from tests.support.servers.fakeserver import WITHIN, heard, job, names, soon
from tests.support.workers.gate import Gate, until
from tests.support.workers.working import Start


async def test_the_hello_names_the_worker_its_targets_and_kinds(start: Start) -> None:
    gate = Gate()
    server, worker = await start(gate.registry, concurrency=3)
    peer = await server.peer()
    assert peer.hello.protocol_version == 1
    assert peer.hello.session_id == worker.session_id
    assert peer.hello.worker == "tested"
    assert [(kind.name, kind.settles) for kind in peer.hello.kinds] == [("gate", False)]
    assert list(peer.hello.held) == []
    assert peer.credits == [3]
    assert server.tokens == ["Bearer " + "t" * 20]


async def test_a_plain_handler_gets_its_arguments_and_returns_a_message(start: Start) -> None:
    registry = Registry()

    @registry.handler("double")
    def double(context: Context) -> Int64Value:
        arguments = context.arguments
        assert isinstance(arguments, Int64Value)
        assert threading.current_thread() is not threading.main_thread()
        return Int64Value(value=2 * context.unpack(Int64Value).value)

    server, _ = await start(registry)
    peer = await server.peer()
    peer.assign(job("T1", "double", Int64Value(value=21)))
    report = await peer.report()
    assert report.outcome == ws.OUTCOME_OK
    result = Int64Value()
    assert report.result.Unpack(result)
    assert result.value == 42


async def test_a_coroutine_handler_does_the_same_and_tells_progress(start: Start) -> None:
    registry = Registry()
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    @registry.handler("greet")
    async def greet(context: AsyncContext) -> StringValue:
        context.progress(1, 2)
        while not told.is_set():
            await context.sleep(0.01)
        return StringValue(value=f"hello {context.unpack(StringValue).value}, attempt {context.attempt}")

    server, _ = await start(registry)
    peer = await server.peer()
    peer.assign(job("T1", "greet", StringValue(value="you")), attempt=7)
    await peer.until(lambda: peer.progress.get("T1") == (1, 2))
    loop.call_soon(told.set)
    report = await peer.report()
    result = StringValue()
    assert report.result.Unpack(result)
    assert result.value == "hello you, attempt 7"


async def test_a_report_is_sent_again_until_it_is_acknowledged(start: Start) -> None:
    gate = Gate()
    gate.open.set()
    server, _ = await start(gate.registry)
    server.ack_reports = False
    peer = await server.peer()
    ref = peer.assign(job("T1", "gate"))
    first = await peer.report()
    for _ in range(2):
        peer.end(grpc.StatusCode.UNAVAILABLE)
        peer = await server.peer()
        assert names(peer.hello.held) == {("T1", 1)}
        assert await peer.report() == first
    peer.ack(ref)
    await heard(peer)
    peer.end(grpc.StatusCode.UNAVAILABLE)
    peer = await server.peer()
    assert list(peer.hello.held) == []


async def test_each_hello_has_a_later_epoch_whether_the_one_before_was_welcomed_or_not(start: Start) -> None:
    server, _ = await start(Gate().registry)
    for epoch in (1, 2, 3):
        peer = await server.peer()
        assert peer.hello.epoch == epoch
        peer.end(grpc.StatusCode.UNAVAILABLE)


async def test_an_attempt_goes_on_while_the_server_is_away(start: Start) -> None:
    gate = Gate()
    server, _ = await start(gate.registry)
    peer = await server.peer()
    peer.assign(job("T1", "gate"), attempt=3)
    await gate.running()
    await server.stop()
    gate.open.set()
    await server.start()
    peer = await server.peer()
    assert names(peer.hello.held) == {("T1", 3)}
    assert peer.hello.session_id == server.connections[0].hello.session_id
    assert (await peer.report()).outcome == ws.OUTCOME_OK
    assert gate.stopped == []


async def test_a_pending_grant_is_asked_for_again_after_a_reconnect(start: Start) -> None:
    gate = Gate(commits=True)
    gate.open.set()
    server, _ = await start(gate.registry)
    peer = await server.peer()
    ref = peer.assign(job("T1", "gate"))
    first = await peer.grant_request()
    peer.end(grpc.StatusCode.UNAVAILABLE)
    peer = await server.peer()
    assert await peer.grant_request() == first
    assert gate.committed == 0
    peer.grant(ref)
    assert (await peer.report()).outcome == ws.OUTCOME_OK
    assert gate.committed == 1


async def test_a_granted_commit_is_not_asked_for_again(start: Start) -> None:
    gate = Gate(commits=True)
    server, _ = await start(gate.registry)
    peer = await server.peer()
    ref = peer.assign(job("T1", "gate"))
    await peer.grant_request()
    peer.grant(ref)
    await until(lambda: gate.committed == 1)
    peer.end(grpc.StatusCode.UNAVAILABLE)
    peer = await server.peer()
    await heard(peer)
    assert peer._grants.empty()
    gate.open.set()
    assert (await peer.report()).outcome == ws.OUTCOME_OK


async def test_attempts_missing_from_the_welcome_are_stopped_and_never_reported(start: Start) -> None:
    gate = Gate(commits=True)
    server, _ = await start(gate.registry)
    peer = await server.peer()
    peer.assign(job("T1", "gate"))
    await peer.grant_request()
    server.keeps = set()
    peer.end(grpc.StatusCode.UNAVAILABLE)
    peer = await server.peer()
    await until(lambda: gate.stopped == [StopReason.REVOKED])
    await heard(peer)
    assert gate.committed == 0
    assert peer.nothing_reported


async def test_a_revocation_drops_a_report_that_waits(start: Start) -> None:
    gate = Gate()
    gate.open.set()
    server, _ = await start(gate.registry)
    server.ack_reports = False
    peer = await server.peer()
    ref = peer.assign(job("T1", "gate"))
    await peer.report()
    peer.revoke(ref)
    await heard(peer)
    peer.end(grpc.StatusCode.UNAVAILABLE)
    peer = await server.peer()
    assert list(peer.hello.held) == []


async def test_an_assignment_that_comes_twice_runs_once(start: Start) -> None:
    gate = Gate()
    server, _ = await start(gate.registry)
    peer = await server.peer()
    peer.assign(job("T1", "gate"))
    peer.assign(job("T1", "gate"))
    await gate.running()
    await heard(peer)
    assert not gate.entered.acquire(blocking=False)
    gate.open.set()
    await peer.report()


async def test_go_away_keeps_attempts_and_connects_again(start: Start) -> None:
    gate = Gate()
    server, _ = await start(gate.registry)
    peer = await server.peer()
    peer.assign(job("T1", "gate"))
    await gate.running()
    peer.say(go_away=GoAway(reason="DRAINING"))
    peer = await server.peer()
    assert names(peer.hello.held) == {("T1", 1)}
    assert gate.stopped == []
    gate.open.set()
    assert (await peer.report()).outcome == ws.OUTCOME_OK


async def test_heartbeats_count_up_at_a_quarter_of_the_lease(start: Start) -> None:
    server, _ = await start(Gate().registry)
    server.lease = 0.8
    peer = await server.peer()
    await peer.until(lambda: len(peer.heartbeats) >= 5)
    assert peer.heartbeats == sorted(set(peer.heartbeats))


async def test_a_lease_without_acknowledgement_stops_nothing(start: Start) -> None:
    gate = Gate()
    server, _ = await start(gate.registry)
    server.lease = 0.2
    peer = await server.peer()
    peer.ack_heartbeats = False
    peer.assign(job("T1", "gate"))
    await gate.running()
    before = len(peer.heartbeats)
    await peer.until(lambda: len(peer.heartbeats) >= before + 8)
    assert gate.stopped == []
    assert len(server.connections) == 1
    gate.open.set()
    assert (await peer.report()).outcome == ws.OUTCOME_OK


async def test_an_attempt_that_is_to_be_alone_waits_for_the_others_and_they_for_it(start: Start) -> None:
    running: set[str] = set()
    together: list[set[str]] = []
    gates = {name: threading.Event() for name in ("before", "alone", "after")}
    entered = {name: threading.Event() for name in gates}
    registry = Registry()

    @registry.handler("note")
    def note(context: Context) -> None:
        running.add(context.task.id)
        together.append(set(running))
        entered[context.task.id].set()
        while not gates[context.task.id].is_set():
            context.sleep(0.01)
        running.discard(context.task.id)

    server, _ = await start(registry)
    peer = await server.peer()
    peer.assign(job("before", "note"))
    peer.assign(job("alone", "note"), alone=True)
    peer.assign(job("after", "note"))
    assert await asyncio.to_thread(entered["before"].wait, WITHIN)
    await peer.until(lambda: peer.credits[-1] < 8)
    for name in ("before", "alone", "after"):
        assert await asyncio.to_thread(entered[name].wait, WITHIN)
        gates[name].set()
        await peer.report()
    assert together == [{"before"}, {"alone"}, {"after"}]
    await peer.until(lambda: peer.credits[-1] == 8)


async def test_drain_finishes_says_goodbye_and_ends(start: Start) -> None:
    gate = Gate()
    server, worker = await start(gate.registry)
    peer = await server.peer()
    peer.assign(job("T1", "gate"))
    await gate.running()
    peer.say(drain=ws.Drain(reason="upgrade"))
    await peer.until(lambda: peer.credits[-1] == 0)
    late = peer.assign(job("T2", "gate"))
    report = await peer.report()
    assert names([report.attempt]) == names([late])
    assert report.outcome == ws.OUTCOME_HANDED_BACK
    assert not peer.goodbye.is_set()
    gate.open.set()
    assert (await peer.report()).outcome == ws.OUTCOME_OK
    await soon(peer.goodbye.wait())
    assert await start.ended(worker) is Exit.LEFT


async def test_a_refused_first_hello_is_an_error_with_the_servers_reason(start: Start, tmp_path: Path) -> None:
    server, worker = await start(Gate().registry)
    server.refusals.append((grpc.StatusCode.FAILED_PRECONDITION, "PROTOCOL_VERSION"))
    with pytest.raises(FailedPrecondition, match="PROTOCOL_VERSION"):
        await start.ended(worker)


async def test_an_unavailable_server_is_tried_again(start: Start) -> None:
    gate = Gate()
    server, _ = await start(gate.registry)
    server.refusals.extend([(grpc.StatusCode.UNAVAILABLE, "DRAINING"), (grpc.StatusCode.ABORTED, "EPOCH_SUPERSEDED")])
    await server.peer()
    assert not server.refusals


async def test_a_later_refusal_costs_no_attempt(start: Start) -> None:
    gate = Gate()
    server, _ = await start(gate.registry)
    peer = await server.peer()
    peer.assign(job("T1", "gate"))
    await gate.running()
    server.refusals.append((grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"))
    peer.end(grpc.StatusCode.UNAVAILABLE)
    peer = await server.peer()
    assert names(peer.hello.held) == {("T1", 1)}
    gate.open.set()
    assert (await peer.report()).outcome == ws.OUTCOME_OK


async def test_the_successor_names_the_session_of_a_dead_process_once(start: Start, tmp_path: Path) -> None:
    dead = "0123456789abcdef-dead"
    (tmp_path / "state").mkdir()
    (tmp_path / "state/tested").write_text(f"{dead}\n")
    server, _ = await start(Gate().registry)
    peer = await server.peer()
    assert list(peer.hello.dead_sessions) == [dead]
    peer.end(grpc.StatusCode.UNAVAILABLE)
    peer = await server.peer()
    assert list(peer.hello.dead_sessions) == []


async def test_two_workers_of_one_name_do_not_bury_each_other(start: Start, tmp_path: Path) -> None:
    server, one = await start(Gate().registry)
    await server.peer()
    _, other = await start(Gate().registry)
    peer = await server.peer()
    assert list(peer.hello.dead_sessions) == []
    assert (tmp_path / "state/tested").read_text() == f"{one.session_id}\n"
    assert (tmp_path / "state/tested.2").read_text() == f"{other.session_id}\n"
