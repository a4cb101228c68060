"""Connections that break, workers that die, come back and leave, and servers that do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from longshore.server.engine.sessions.messages import WorkerSays
from longshore.server.model.errors import NotFound
from longshore.server.model.events import Policy, Reported
from longshore.server.model.values import Outcome, State
from longshore.server.store.commands import DrainSession
from longshore.v1 import task_pb2
from longshore.v1 import worker_service_pb2 as pb
from tests.support.servers.fleetserver import FleetServer, fleet_server
from tests.support.workers.fakeworker import FakeWorker, SessionRefused, ref


async def test_an_attempt_missing_from_the_hello_is_queued_again_at_no_cost(
    server: FleetServer, worker: FakeWorker
) -> None:
    stream = await worker.connect(credits=2)
    lost, kept = await server.submit(count=2)
    await stream.until(lambda: len(stream.assignments) == 2)
    await stream.cut()
    again = await worker.connect(held=[(kept.id, 1)])
    assert again.welcome is not None
    assert again.welcome.epoch == 2
    assert list(again.welcome.held) == [ref(kept.id, 1)]
    assert again.revocations == []
    status = (await server.task(lost.id)).status
    assert (status.state, status.tries, status.crashes, status.alone) == (State.QUEUED, 0, 0, False)
    assert await server.ends(lost.id) == ["NEVER_ARRIVED"]
    # An attempt that the session still holds takes a credit.
    await again.offer(2)
    assert (await again.next_assignment()).task.id == lost.id
    assert (await again.report(pb.Assignment(task=task_pb2.Task(id=kept.id), attempt=1))).accepted
    assert (await server.task(kept.id)).status.state is State.SUCCEEDED


async def test_attempts_wrongly_claimed_as_held_are_revoked(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    (task,) = await server.submit()
    assignment = await stream.next_assignment()
    await stream.report(assignment)
    await stream.cut()
    again = await worker.connect(held=[(task.id, 1), ("no-such-task", 3)])
    assert again.welcome is not None
    assert list(again.welcome.held) == []
    assert {(one.attempt.task_id, one.reason) for one in again.revocations} == {
        (task.id, "UNKNOWN_ATTEMPT"),
        ("no-such-task", "UNKNOWN_ATTEMPT"),
    }


async def test_an_older_connection_is_ended_and_counts_no_more(server: FleetServer, worker: FakeWorker) -> None:
    older = await worker.connect(credits=1)
    (task,) = await server.submit()
    assignment = await older.next_assignment()
    newer = await worker.connect(held=[(task.id, 1)])
    error = await older.until_ended()
    assert error is not None
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "EPOCH_SUPERSEDED")
    assert (await newer.report(assignment)).accepted
    # The end of the older stream does not disconnect the newer one.
    (figures,) = await server.sessions.statistics()
    assert figures.session.epoch == 2
    assert figures.session.connected


async def test_messages_of_an_older_connection_are_ignored(server: FleetServer, worker: FakeWorker) -> None:
    await worker.connect()
    older = server.sessions.fleet.connection(worker.session_id)
    assert older is not None
    newer = await worker.connect(credits=1)
    (task,) = await server.submit()
    await newer.next_assignment()
    report = Reported(worker.session_id, 1, Outcome.OK)
    server.sessions.receive(older, WorkerSays(credits=7, reports=((task.id, report),), goodbye=True))
    assert (older.credits, len(older.reports), older.parting) == (0, 0, False)
    assert (await server.task(task.id)).status.state is State.RUNNING


async def test_of_two_connections_at_once_one_has_the_session(server: FleetServer, worker: FakeWorker) -> None:
    hello = pb.WorkRequest(hello=worker.hello())
    for _ in range(10):
        streams = await asyncio.gather(*(worker.open(hello) for _ in range(3)))
        ends = [asyncio.create_task(stream.until_ended()) for stream in streams]
        for end in asyncio.as_completed(ends):
            error = await end
            assert error is not None
            assert error.reason == "EPOCH_SUPERSEDED"
            if sum(one.done() for one in ends) == 2:
                break
        (live,) = [stream for stream in streams if not stream.ended]
        await live.until(lambda: live.welcome)  # noqa: B023 - awaited at once
        connection = server.sessions.fleet.connection(worker.session_id)
        assert connection is not None
        assert live.welcome is not None
        assert live.welcome.epoch == connection.epoch
        for end in ends:
            end.cancel()


async def test_an_unanswered_report_is_sent_again_after_a_reconnect(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    (task,) = await server.submit()
    assignment = await stream.next_assignment()
    await stream.cut()
    await server.until_state(task.id, State.RUNNING)
    again = await worker.open(
        pb.WorkRequest(
            hello=worker.hello(held=[(task.id, 1)]),
            reports=[pb.Report(attempt=ref(task.id, assignment.attempt), outcome=pb.OUTCOME_OK)],
        )
    )
    await again.until(lambda: again.acks)
    assert again.acks[0].accepted
    assert (await server.task(task.id)).status.state is State.SUCCEEDED


async def test_an_offline_worker_learns_of_a_cancel_when_it_reconnects(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    (task,) = await server.submit()
    assignment = await stream.next_assignment()
    await stream.cut()
    await server.cancel(task.id)
    again = await worker.connect(held=[(task.id, 1)])
    await again.until(lambda: again.cancels)
    assert again.cancels[0].attempt == ref(task.id, 1)
    assert 0 < again.cancels[0].grace.seconds <= 30
    assert not (await again.ask_grant(assignment)).granted
    assert (await again.report(assignment, pb.OUTCOME_STOPPED)).accepted
    assert (await server.task(task.id)).status.state is State.CANCELLED


async def test_a_reconnecting_worker_learns_of_the_cancel_on_another_server(tmp_path: Path) -> None:
    async with fleet_server(tmp_path) as first, first.worker() as worker:
        stream = await worker.connect(credits=1)
        (task,) = await first.submit()
        await stream.next_assignment()
        await first.cancel(task.id)
    async with fleet_server(tmp_path) as second, second.worker(session_id=worker.session_id) as worker:
        stream = await worker.connect(held=[(task.id, 1)])
        assert stream.welcome is not None
        assert stream.welcome.epoch == 2
        await stream.until(lambda: stream.cancels)
        assert stream.cancels[0].attempt == ref(task.id, 1)


async def test_a_silent_session_loses_its_attempts_when_its_lease_ends(tmp_path: Path) -> None:
    async with fleet_server(tmp_path, lease=0.3) as server, server.worker() as worker:
        stream = await worker.connect(credits=1)
        (task,) = await server.submit()
        await stream.next_assignment()
        error = await stream.until_ended()
        assert error is not None
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "LEASE_LOST")
        lost = await server.until_state(task.id, State.QUEUED)
        assert (lost.status.crashes, lost.status.tries, lost.status.alone) == (1, 0, True)
        assert await server.ends(task.id) == ["LOST"]
        again = await worker.connect(held=[(task.id, 1)])
        assert [(one.attempt, one.reason) for one in again.revocations] == [(ref(task.id, 1), "UNKNOWN_ATTEMPT")]


async def test_a_lost_granted_attempt_is_settled_by_another(tmp_path: Path) -> None:
    async with fleet_server(tmp_path, lease=0.3) as server, server.worker() as worker, server.worker() as other:
        stream = await worker.connect(credits=1)
        (task,) = await server.submit_pushes("/etc/motd")
        assignment = await stream.next_assignment()
        grant = await stream.ask_grant(assignment, temp="/etc/.t", crc32c=9, mode=0o600, uid=1, gid=2)
        assert grant.granted
        await stream.until_ended()
        await server.until_state(task.id, State.SETTLING)
        settler = await other.connect(credits=1)
        order = await settler.next_assignment()
        assert order.attempt == 2
        assert order.settle == pb.SettleOrder(granted_attempt=1, temp="/etc/.t", crc32c=9, mode=0o600, uid=1, gid=2)
        assert (await settler.report(order, pb.OUTCOME_SETTLED_LANDED)).accepted
        assert (await server.task(task.id)).status.state is State.SUCCEEDED
        assert await server.ends(task.id) == ["LOST", "SETTLED_LANDED"]


async def test_heartbeats_keep_a_session_alive_and_are_answered_when_durable(tmp_path: Path) -> None:
    async with fleet_server(tmp_path, lease=0.6) as server, server.worker() as worker:
        stream = await worker.connect(credits=1)
        (task,) = await server.submit()
        await stream.next_assignment()
        ticks = server.clock.ticks()
        sequence = 0
        while server.clock.ticks() < ticks + 1.5:
            sequence += 1
            await stream.heartbeat(sequence)
            await stream.until(lambda: stream.heartbeat_ack == sequence)  # noqa: B023 - awaited at once
        session = await server.store.session(worker.session_id)
        assert session is not None
        assert session.lease_ticks > ticks + 1.5
        assert (await server.task(task.id)).status.state is State.RUNNING


async def test_goodbye_ends_the_session_at_once_with_its_last_reports(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=3)
    done, handed_back, forgotten = await server.submit(count=3)
    await stream.until(lambda: len(stream.assignments) == 3)
    await stream.say(
        reports=[
            pb.Report(attempt=ref(done.id, 1), outcome=pb.OUTCOME_OK),
            pb.Report(attempt=ref(handed_back.id, 1), outcome=pb.OUTCOME_HANDED_BACK),
        ],
        goodbye=pb.Goodbye(),
    )
    assert await stream.until_ended() is None
    assert len(stream.acks) == 2
    assert await server.store.session(worker.session_id) is None or not await server.store.sessions()
    states = [(await server.task(task.id)).status for task in (done, handed_back, forgotten)]
    assert [one.state for one in states] == [State.SUCCEEDED, State.QUEUED, State.QUEUED]
    assert [one.crashes for one in states] == [0, 0, 0]


async def test_reports_that_wait_behind_others_are_committed_before_a_goodbye(
    server: FleetServer, worker: FakeWorker
) -> None:
    stream = await worker.connect(credits=20)
    tasks = await server.submit(count=20)
    await stream.until(lambda: len(stream.assignments) == 20)
    for task in tasks[:-1]:
        await stream.say(reports=[pb.Report(attempt=ref(task.id, 1), outcome=pb.OUTCOME_OK)])
    last = pb.Report(attempt=ref(tasks[-1].id, 1), outcome=pb.OUTCOME_OK)
    await stream.say(reports=[last], goodbye=pb.Goodbye())
    assert await stream.until_ended() is None
    assert [ack.accepted for ack in stream.acks] == [True] * 20
    assert {(await server.task(task.id)).status.state for task in tasks} == {State.SUCCEEDED}


async def test_a_session_may_come_back_after_its_goodbye(server: FleetServer, worker: FakeWorker) -> None:
    assert await (await worker.connect()).goodbye() is None
    stream = await worker.connect(credits=1)
    (task,) = await server.submit()
    assert (await stream.next_assignment()).task.id == task.id


async def test_a_dead_sessions_attempts_are_lost_at_once(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    (task,) = await server.submit()
    await stream.next_assignment()
    async with server.worker() as successor:
        await successor.connect(dead_sessions=[worker.session_id])
        error = await stream.until_ended()
        assert error is not None
        assert error.reason == "LEASE_LOST"
        assert [(one.attempt, one.reason) for one in stream.revocations] == [(ref(task.id, 1), "LEASE_LOST")]
    status = (await server.task(task.id)).status
    assert (status.state, status.crashes) == (State.QUEUED, 1)


async def test_a_drained_worker_is_notified_and_gets_no_more_tasks(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=2)
    first, *_ = await server.submit()
    assignment = await stream.next_assignment()
    figures = await server.sessions.drain_session(worker.session_id)
    assert figures.session.draining
    await stream.until(lambda: stream.drain)
    await server.submit()
    assert (await stream.report(assignment)).accepted
    await stream.heartbeat(1)
    assert stream.assignments == []
    await stream.cut()
    again = await worker.connect(credits=2)
    assert again.drain is not None
    async with server.worker() as other:
        second = await other.connect(credits=1)
        assert (await second.next_assignment()).task.id != first.id
    assert again.assignments == []
    with pytest.raises(NotFound):
        await server.sessions.drain_session("no-such-session-anywhere")


async def test_a_drain_that_was_asked_for_elsewhere_is_heard_of(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    await server.store.run(DrainSession(session_id=worker.session_id))
    await stream.until(lambda: stream.drain)


async def test_a_leaving_server_sends_workers_elsewhere_and_attempts_stay_with_them(tmp_path: Path) -> None:
    async with fleet_server(tmp_path) as server, server.worker() as worker:
        stream = await worker.connect(credits=1)
        (task,) = await server.submit()
        await stream.next_assignment()
        async with asyncio.timeout(10):
            await server.sessions.drain()
        assert stream.go_away == "DRAINING"
        error = await stream.until_ended()
        assert error is not None
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        with pytest.raises(SessionRefused) as refused:
            await worker.connect()
        assert refused.value.reason == "DRAINING"
        session = await server.store.session(worker.session_id)
        assert session is not None
        assert not session.connected
        assert (await server.task(task.id)).status.state is State.RUNNING
    async with fleet_server(tmp_path) as successor, successor.worker(session_id=worker.session_id) as worker:
        again = await worker.connect(held=[(task.id, 1)])
        assert again.welcome is not None
        assert list(again.welcome.held) == [ref(task.id, 1)]
        assert (await again.report(pb.Assignment(task=task_pb2.Task(id=task.id), attempt=1))).accepted


async def test_nothing_is_left_of_connections_that_are_gone(server: FleetServer) -> None:
    for number in range(20):
        async with server.worker() as worker:
            stream = await worker.connect(credits=1)
            (task,) = await server.submit()
            assignment = await stream.next_assignment()
            await stream.say(progress=[pb.AttemptProgress(attempt=ref(task.id, assignment.attempt), done=1, total=2)])
            if number % 2:
                await stream.cut()
            else:
                await stream.goodbye()
        async with server.worker() as undertaker:
            end = await undertaker.connect(dead_sessions=[worker.session_id])
            await server.cancel(task.id)
            await end.goodbye()
    sessions = server.sessions

    async def all_gone() -> bool:
        return not (sessions._streams or sessions._partings)

    await server.until(all_gone)
    assert (len(sessions._runners), len(sessions.fleet.connections()), len(server.progress)) == (0, 0, 0)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("session ")]


async def test_no_worker_waits_for_another(server: FleetServer, worker: FakeWorker) -> None:
    """One that crashed and one that never reads do not hold up a third."""
    stream = await worker.connect(credits=1)
    await server.submit()
    await stream.next_assignment()
    async with server.worker() as deaf, server.worker() as lively:
        await deaf.open(pb.WorkRequest(hello=deaf.hello(), credits=5), listen=False)
        quick = await lively.connect(credits=5)
        tasks = await server.submit(count=30)
        async with asyncio.timeout(10):
            done = 0
            while done < 20:
                await quick.report(await quick.next_assignment())
                done += 1
        ended = [task for task in tasks if (await server.task(task.id)).status.state is State.SUCCEEDED]
        assert len(ended) >= 20


async def test_a_task_whose_workers_die_before_it_begins_succeeds_in_the_end(tmp_path: Path) -> None:
    """P9: only a loss after the handler began counts. A worker that does not say so is blamed as ever."""
    async with fleet_server(tmp_path, policy=Policy(solo_limit=2)) as server:
        (task,) = await server.submit()
        dead: list[str] = []
        for number in range(7):
            async with server.worker() as worker:
                stream = await worker.connect(credits=1, dead_sessions=dead, begins=True)
                assert (await stream.next_assignment()).alone is (number > 0)
                await stream.cut()
                dead = [worker.session_id]
        async with server.worker() as worker:
            stream = await worker.connect(credits=1, dead_sessions=dead, begins=True)
            status = (await server.task(task.id)).status
            assert (status.crashes, status.solo_crashes) == (7, 0)
            assignment = await stream.next_assignment()
            assert (await stream.begin(assignment)).begun
            # Its answer was lost, and it asks again, over another connection.
            await stream.cut()
            held = [(assignment.task.id, assignment.attempt)]
            stream = await worker.connect(credits=1, held=held, begins=True)
            assert (await stream.begin(assignment)).begun
            assert (await stream.report(assignment)).accepted
        status = (await server.task(task.id)).status
        assert (status.state, status.solo_crashes) == (State.SUCCEEDED, 0)


@pytest.mark.parametrize("begins", [False, True])
async def test_a_task_whose_workers_die_after_it_began_fails(tmp_path: Path, begins: bool) -> None:
    async with fleet_server(tmp_path, policy=Policy(solo_limit=2)) as server:
        (task,) = await server.submit()
        dead: list[str] = []
        for _ in range(3):
            async with server.worker() as worker:
                stream = await worker.connect(credits=1, dead_sessions=dead, begins=begins)
                assignment = await stream.next_assignment()
                if begins and assignment.alone:
                    assert (await stream.begin(assignment)).begun
                await stream.cut()
                dead = [worker.session_id]
        async with server.worker() as worker:
            await worker.connect(dead_sessions=dead)
        status = (await server.task(task.id)).status
        assert (status.state, status.solo_crashes) == (State.FAILED, 2)


async def test_a_poison_task_fails_and_its_neighbours_do_not(tmp_path: Path) -> None:
    async with fleet_server(tmp_path, policy=Policy(solo_limit=2)) as server:
        poison, *neighbours = await server.submit(count=4)
        dead = ""
        survivors: set[str] = set()
        for _ in range(20):
            if (await server.task(poison.id)).status.state.terminal:
                break
            async with server.worker() as worker:
                stream = await worker.connect(credits=4, dead_sessions=[dead] if dead else [])
                running: list[pb.Assignment] = []
                while not any(one.task.id == poison.id for one in running):
                    running.append(await stream.next_assignment())
                    if running[-1].alone and running[-1].task.id != poison.id:
                        await stream.report(running.pop())
                        survivors.add(running[-1].task.id) if running else None
                await stream.cut()
                dead = worker.session_id
            async with server.worker() as undertaker:
                await undertaker.connect(dead_sessions=[dead])
            dead = ""
        status = (await server.task(poison.id)).status
        assert (status.state, status.error.reason if status.error else "") == (State.FAILED, "WORKER_CRASHED")
        assert status.solo_crashes == 2
        async with server.worker() as worker:
            stream = await worker.connect(credits=4)
            while not all([(await server.task(one.id)).status.state is State.SUCCEEDED for one in neighbours]):
                await stream.report(await stream.next_assignment())
