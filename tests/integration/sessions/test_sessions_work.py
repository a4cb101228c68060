"""The walking path of a session: hello, work, reports, grants, cancels."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from longshore.server.model.events import Policy
from longshore.server.model.values import State
from longshore.server.store.transaction.limits import ConcurrencyLimits
from longshore.v1 import task_pb2
from longshore.v1 import worker_service_pb2 as pb
from tests.support.servers.fleetserver import FleetServer, fleet_server
from tests.support.workers.fakeworker import FakeWorker, ref


async def test_a_job_is_assigned_run_reported_and_acknowledged(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    assert stream.welcome is not None
    assert stream.welcome.epoch == 1
    assert stream.welcome.lease.seconds == 60
    (task,) = await server.submit(arguments=b"hello")
    assignment = await stream.next_assignment()
    assert assignment.task.id == task.id
    assert assignment.task.state == task_pb2.TASK_STATE_RUNNING
    assert assignment.task.job.arguments.value == b"hello"
    assert (assignment.attempt, assignment.alone, assignment.payload_path) == (1, False, "")
    ack = await stream.report(assignment)
    assert ack.accepted
    assert (await server.task(task.id)).status.state is State.SUCCEEDED
    # A worker that reports the end of an attempt is not told that it has lost the attempt.
    await stream.ask_grant(assignment)
    assert stream.revocations == []


async def test_an_assignment_is_sent_only_after_its_claim_is_committed(server: FleetServer, worker: FakeWorker) -> None:
    (task,) = await server.submit()
    stream = await worker.connect()
    with sqlite3.connect(server.database, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")  # nobody else can commit
        await stream.offer(1)
        with pytest.raises(AssertionError, match="not within"):
            await stream.until(lambda: stream.assignments, within=0.5)
        other.execute("ROLLBACK")
    other.close()
    assignment = await stream.next_assignment()
    assert assignment.task.id == task.id
    held = await server.task(task.id)
    assert (held.status.state, held.status.session_id) == (State.RUNNING, worker.session_id)


async def test_no_more_than_the_credits_and_the_next_as_soon_as_there_is_room(
    server: FleetServer, worker: FakeWorker
) -> None:
    stream = await worker.connect(credits=2)
    tasks = await server.submit(count=5)
    await stream.until(lambda: len(stream.assignments) == 2)
    first = await stream.next_assignment()
    await stream.report(first)
    await stream.until(lambda: len(stream.assignments) == 2)
    states = [(await server.task(task.id)).status.state for task in tasks]
    assert sorted(states) == [State.QUEUED, State.QUEUED, State.RUNNING, State.RUNNING, State.SUCCEEDED]
    await stream.offer(4)
    await stream.until(lambda: len(stream.assignments) == 4)
    await stream.offer(0)
    for assignment in list(stream.assignments):
        assert (await stream.report(assignment)).accepted


async def test_a_report_and_the_next_claim_share_a_commit(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    await server.submit(count=21)
    assignment = await stream.next_assignment()
    commits = server.record()
    for _ in range(20):
        await stream.report(assignment)
        assignment = await stream.next_assignment()
    shared = [
        commit
        for commit in commits
        if {State.SUCCEEDED, State.RUNNING} <= {change.task.status.state for change in commit.tasks}
    ]
    # Not every pair shares a commit: the writer may begin with the report before the claim is there.
    assert len(shared) >= 5


async def test_a_claim_that_is_expected_shares_the_commit_of_its_task(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    commits = server.record()
    for _ in range(20):
        server.dispatcher.expect_tasks()
        await server.submit()
        await stream.report(await stream.next_assignment())
    shared = [
        commit
        for commit in commits
        if {State.QUEUED, State.RUNNING} <= {change.task.status.state for change in commit.tasks}
    ]
    assert len(shared) >= 5


async def test_a_lone_task_takes_two_commits(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=2)
    await server.submit()
    await stream.report(await stream.next_assignment())
    commits = server.record()
    for _ in range(20):
        server.dispatcher.expect_tasks()
        await server.submit()
        await stream.report(await stream.next_assignment())
    states = [[change.task.status.state for change in commit.tasks] for commit in commits if commit.tasks]
    # The safety poll may claim just as a task is submitted, which then starts a commit later.
    assert states.count([State.QUEUED, State.RUNNING]) >= 18
    assert states.count([State.SUCCEEDED]) == 20


async def test_two_workers_share_the_work(server: FleetServer, worker: FakeWorker) -> None:
    async with server.worker() as other:
        # Six and not ten: the claim that the second one's coming made may share its commit with the tasks, and is for
        # that one alone.
        one, two = await worker.connect(credits=6), await other.connect(credits=6)
        await server.submit(count=10)
        await one.until(lambda: len(one.assignments) >= 4)
        await two.until(lambda: len(two.assignments) >= 4)


async def test_a_session_gets_only_tasks_of_targets_and_kinds_that_it_serves(
    server: FleetServer, worker: FakeWorker
) -> None:
    stream = await worker.connect(credits=10)
    await server.submit(target="elsewhere")
    (mine,) = await server.submit()
    assert (await stream.next_assignment()).task.id == mine.id
    assert stream.assignments == []


async def test_a_report_said_twice_counts_once(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    (task,) = await server.submit()
    assignment = await stream.next_assignment()
    first = await stream.report(assignment)
    revision = (await server.task(task.id)).status.revision
    again = await stream.report(assignment)
    assert (first.accepted, again.accepted) == (True, True)
    assert (await server.task(task.id)).status.revision == revision
    assert await server.ends(task.id) == ["OK"]


async def test_a_report_of_an_older_attempt_is_stale(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    await server.submit()
    first = await stream.next_assignment()
    assert (await stream.report(first, pb.OUTCOME_TRANSIENT, reason="BUSY", retry_after=0.0)).accepted
    second = await stream.next_assignment()
    assert second.attempt == 2
    assert not (await stream.report(first)).accepted
    assert (await stream.report(second)).accepted


async def test_many_reports_of_one_message_are_all_answered(tmp_path: Path) -> None:
    limits = ConcurrencyLimits(target=1000)
    async with fleet_server(tmp_path, limits=limits) as server, server.worker() as worker:
        stream = await worker.connect(credits=300)
        tasks = await server.submit(count=300)
        await stream.until(lambda: len(stream.assignments) == 300)
        await stream.say(
            reports=[
                pb.Report(attempt=ref(one.task.id, one.attempt), outcome=pb.OUTCOME_OK) for one in stream.assignments
            ]
        )
        await stream.until(lambda: len(stream.acks) == 300)
        assert {ack.attempt.task_id for ack in stream.acks} == {task.id for task in tasks}
        assert all(ack.accepted for ack in stream.acks)


async def test_a_grant_is_given_once_and_answered_the_same_again(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    (task,) = await server.submit_pushes("/etc/motd")
    assignment = await stream.next_assignment()
    # A push cannot succeed without a grant.
    first = await stream.ask_grant(assignment, temp="/etc/.t-1", crc32c=5, mode=0o644, uid=0, gid=0)
    again = await stream.ask_grant(assignment, temp="/etc/.t-1", crc32c=5, mode=0o644, uid=0, gid=0)
    other = await stream.ask_grant(assignment, temp="/etc/.t-2")
    assert (first.granted, again.granted, other.granted) == (True, True, False)
    status = (await server.task(task.id)).status
    assert status.state is State.COMMITTING
    assert status.grant is not None
    assert status.grant.temp == "/etc/.t-1"
    assert (await stream.report(assignment)).accepted
    assert (await server.task(task.id)).status.state is State.SUCCEEDED


async def test_no_grant_after_a_cancel(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    (task,) = await server.submit_pushes("/etc/motd")
    assignment = await stream.next_assignment()
    await server.cancel(task.id)
    await stream.until(lambda: stream.cancels)
    grant = await stream.ask_grant(assignment, temp="/etc/.t-1")
    assert (grant.granted, grant.reason) == (False, "CANCELLED")
    assert (await stream.report(assignment, pb.OUTCOME_STOPPED)).accepted
    assert (await server.task(task.id)).status.state is State.CANCELLED


async def test_a_grant_for_another_sessions_attempt_is_refused(server: FleetServer, worker: FakeWorker) -> None:
    async with server.worker() as other:
        stream, stranger = await worker.connect(credits=1), await other.connect()
        (task,) = await server.submit_pushes("/etc/motd")
        assignment = await stream.next_assignment()
        refused = await stranger.ask_grant(assignment, temp="/etc/.t-1")
        assert (refused.granted, refused.reason) == (False, "REVOKED")
        assert not (await stranger.report(assignment)).accepted
        assert (await server.task(task.id)).status.state is State.RUNNING


async def test_a_running_worker_is_told_of_a_cancel(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    (task,) = await server.submit()
    assignment = await stream.next_assignment()
    await server.cancel(task.id)
    await stream.until(lambda: stream.cancels)
    (cancel,) = stream.cancels
    assert cancel.attempt == ref(task.id, assignment.attempt)
    assert 29 < cancel.grace.seconds + cancel.grace.nanos / 1e9 <= 30
    await server.cancel(task.id)
    assert (await stream.report(assignment, pb.OUTCOME_STOPPED)).accepted
    assert len(stream.cancels) == 1
    assert (await server.task(task.id)).status.state is State.CANCELLED


async def test_a_worker_that_does_not_stop_in_time_loses_the_attempt(tmp_path: Path) -> None:
    policy = Policy(cancel_grace=0.1)
    async with fleet_server(tmp_path, policy=policy) as server, server.worker() as worker:
        stream = await worker.connect(credits=1)
        (task,) = await server.submit()
        assignment = await stream.next_assignment()
        await server.cancel(task.id)
        await stream.until(lambda: stream.revocations)
        (revocation,) = stream.revocations
        assert (revocation.attempt, revocation.reason) == (ref(task.id, 1), "TIMED_OUT")
        assert (await server.task(task.id)).status.state is State.CANCELLED
        assert not (await stream.report(assignment)).accepted


async def test_an_attempt_over_its_run_timeout_is_revoked_and_tried_again(
    server: FleetServer, worker: FakeWorker
) -> None:
    stream = await worker.connect(credits=1)
    (task,) = await server.submit(run_timeout=0.1)
    assert (await stream.next_assignment()).attempt == 1
    await stream.until(lambda: stream.revocations)
    assert stream.revocations[0].reason == "TIMED_OUT"
    assert (await stream.next_assignment()).attempt == 2
    assert (await server.task(task.id)).status.tries == 1


async def test_shown_progress_is_the_newest_of_the_held_attempt(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    (task,) = await server.submit()
    assignment = await stream.next_assignment()
    moved = asyncio.Event()
    server.progress.subscribe(task.id, moved.set)
    stranger = pb.AttemptProgress(attempt=ref("another-task", 1), done=1, total=2)
    newest = pb.AttemptProgress(attempt=ref(task.id, 1), done=7, total=9)
    await stream.say(progress=[stranger, newest])
    async with asyncio.timeout(10):
        await moved.wait()
    latest = server.progress.latest(task.id)
    assert latest is not None
    assert (latest.attempt, latest.done, latest.total) == (1, 7, 9)
    assert server.progress.latest("another-task") is None
    await stream.report(assignment)
    assert len(server.progress) == 0


async def test_a_session_that_runs_a_task_alone_gets_nothing_else(server: FleetServer, worker: FakeWorker) -> None:
    """A task that crashed its worker runs alone; the neighbours wait, and go on afterwards."""
    async with server.worker() as doomed:
        dying = await doomed.connect(credits=1)
        (suspect,) = await server.submit()
        await dying.next_assignment()
        await dying.cut()
    stream = await worker.connect(dead_sessions=[doomed.session_id])
    assert (await server.task(suspect.id)).status.alone
    neighbours = await server.submit(count=3)
    await stream.offer(8)
    alone = await stream.next_assignment()
    assert (alone.task.id, alone.alone) == (suspect.id, True)
    await stream.heartbeat(1)
    assert (await stream.report(alone)).accepted
    await stream.until(lambda: len(stream.assignments) == 3)
    assert {one.task.id for one in stream.assignments} == {task.id for task in neighbours}
    assert not any(one.alone for one in stream.assignments)


async def test_a_busy_session_is_left_to_empty_for_a_task_that_must_run_alone(
    server: FleetServer, worker: FakeWorker
) -> None:
    async with server.worker() as doomed:
        dying = await doomed.connect(credits=1)
        (suspect,) = await server.submit()
        await dying.next_assignment()
        stream = await worker.connect(credits=2)
        await server.submit(count=30)
        running = [await stream.next_assignment(), await stream.next_assignment()]
        await dying.cut()
    async with server.worker() as successor:
        await successor.connect(dead_sessions=[doomed.session_id])
        neighbours = 0
        while not running[0].alone:
            await stream.report(running.pop(0))
            if not running:
                running.append(await stream.next_assignment())
                neighbours += 1
        # Were it filled up again each time, the suspect would wait for all of them.
        assert running[0].task.id == suspect.id
        assert neighbours < 5
        await stream.report(running[0])
        await stream.until(lambda: len(stream.assignments) == 2)


async def test_a_target_that_hangs_never_takes_all_of_a_worker(server: FleetServer) -> None:
    """P10, in dispatch and store together: its tasks come first, are many, and none of them ends."""
    async with server.worker(targets=["hung", "slow", "fine"]) as worker:
        await server.submit(count=20, target="hung", priority=9)
        await server.submit(count=20, target="slow", priority=5)
        stream = await worker.connect(credits=8)
        await stream.until(lambda: len(stream.assignments) == 7)
        held = [stream.assignments.pop(0) for _ in range(7)]
        assert [one.task.job.target for one in held] == ["hung"] * 6 + ["slow"]
        for _ in range(20):
            (task,) = await server.submit(target="fine")
            assignment = await stream.next_assignment()
            assert assignment.task.id == task.id
            assert (await stream.report(assignment)).accepted
        assert stream.assignments == []
        # An attempt that ends makes way for its like, at once.
        assert (await stream.report(held[0])).accepted
        assert (await stream.next_assignment()).task.job.target == "hung"
