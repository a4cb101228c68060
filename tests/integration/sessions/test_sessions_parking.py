"""Parked tasks, and debts: what a server asks of workers beside work."""

from __future__ import annotations

from pathlib import Path

import pytest

from longshore.contract.temps import temps_of
from longshore.server.engine.sessions import parking
from longshore.server.model.events import Policy
from longshore.server.model.values import State, WaitReason
from longshore.v1 import task_pb2
from longshore.v1 import worker_service_pb2 as pb
from tests.support.servers.fleetserver import FleetServer, fleet_server
from tests.support.workers.fakeworker import FakeWorker, Stream


async def park(
    server: FleetServer, stream: Stream, path: str, *, instance: str = "c1", absent: bool = False
) -> pb.Assignment:
    await server.submit_pushes(path, instance=instance)
    assignment = await stream.next_assignment()
    reason = task_pb2.WAIT_REASON_INSTANCE_ABSENT if absent else task_pb2.WAIT_REASON_INSTANCE_STOPPED
    ack = await stream.report(assignment, pb.OUTCOME_NOT_READY, wait_reason=reason)
    assert ack.accepted
    return assignment


def instances(stream: Stream, target: str = "default") -> set[str] | None:
    """Return the instances that the worker was told to watch. None means that it was told nothing."""
    listed = stream.parked.get(target)
    return None if listed is None else {one.instance for one in listed}


async def test_one_worker_watches_parked_instances_and_wakes_their_tasks(
    server: FleetServer, worker: FakeWorker
) -> None:
    async with server.worker() as other:
        stream = await worker.connect(credits=2)
        second = await other.connect()
        parked = await park(server, stream, "/a")
        status = (await server.task(parked.task.id)).status
        assert (status.state, status.wait_reason, status.due_at, status.tries) == (
            State.SCHEDULED,
            WaitReason.INSTANCE_STOPPED,
            None,
            0,
        )
        await stream.until(lambda: instances(stream) == {"c1"})
        await park(server, stream, "/b", instance="c2", absent=True)
        await stream.until(lambda: instances(stream) == {"c1", "c2"})
        place = stream.parked["default"][0]
        await stream.say(ready=[pb.InstanceReady(instance=place, running=place.instance == "c1")])
        woken = await stream.next_assignment()
        assert woken.attempt == 2
        assert woken.task.file_push.destination.instance == place.instance
        await stream.until(lambda: instances(stream) == {"c1", "c2"} - {place.instance})
        assert instances(second) is None


async def test_a_stopped_instance_wakes_only_tasks_that_wait_for_its_existence(
    server: FleetServer, worker: FakeWorker
) -> None:
    stream = await worker.connect(credits=2)
    stopped = await park(server, stream, "/a", instance="c1")
    absent = await park(server, stream, "/b", instance="c2", absent=True)
    everything = pb.InstanceRef(target="default")
    await stream.say(ready=[pb.InstanceReady(instance=everything, running=False)])
    assert (await stream.next_assignment()).task.id == absent.task.id
    await stream.say(ready=[pb.InstanceReady(instance=everything, running=True)])
    assert (await stream.next_assignment()).task.id == stopped.task.id


async def test_more_tasks_than_one_transaction_wakes_are_all_woken(
    server: FleetServer, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "WAKE_AT_ONCE", 2)
    stream = await worker.connect(credits=4)
    waiting = {(await park(server, stream, f"/{number}")).task.id for number in range(7)}
    seen = server.record()
    everything = pb.InstanceRef(target="default")
    await stream.say(ready=[pb.InstanceReady(instance=everything, running=True)])
    for _ in range(len(waiting)):
        woken = await stream.next_assignment()
        waiting.discard(woken.task.id)
        await stream.report(woken, pb.OUTCOME_PERMANENT, reason="NO_SPACE")
    assert not waiting
    queued = [[one for one in commit.tasks if one.task.status.state is State.QUEUED] for commit in seen]
    assert max(len(commit) for commit in queued) == 2


async def test_only_sessions_that_serve_a_target_can_wake_its_tasks(server: FleetServer, worker: FakeWorker) -> None:
    async with server.worker(targets=["another"]) as stranger:
        stream, other = await worker.connect(credits=1), await stranger.connect()
        parked = await park(server, stream, "/a")
        await other.say(ready=[pb.InstanceReady(instance=pb.InstanceRef(target="default"), running=True)])
        await other.heartbeat(1)
        await stream.until(lambda: instances(stream) == {"c1"})
        assert (await server.task(parked.task.id)).status.state is State.SCHEDULED
        assert stream.assignments == []


async def test_another_worker_takes_over_the_watch(server: FleetServer, worker: FakeWorker) -> None:
    async with server.worker() as other:
        stream = await worker.connect(credits=1)
        second = await other.connect()
        await park(server, stream, "/a")
        await stream.until(lambda: instances(stream) == {"c1"})
        await stream.cut()
        await second.until(lambda: instances(second) == {"c1"})
        # A draining worker hands the watch on too, and is told to watch no more.
        third = await worker.connect()
        await server.sessions.drain_session(other.session_id)
        await third.until(lambda: instances(third) == {"c1"})
        await second.until(lambda: instances(second) == set())


async def test_a_session_that_connects_later_gets_the_list_of_parked_instances(tmp_path: Path) -> None:
    async with fleet_server(tmp_path) as server, server.worker() as worker:
        stream = await worker.connect(credits=1)
        task = (await park(server, stream, "/a")).task
        await stream.until(lambda: instances(stream) == {"c1"})
    async with fleet_server(tmp_path) as server, server.worker() as worker:
        stream = await worker.connect(credits=1)
        await stream.until(lambda: instances(stream) == {"c1"})
        await server.cancel(task.id)
        await stream.until(lambda: instances(stream) == set())


async def lose_an_attempt(server: FleetServer, *, path: str = "/etc/motd") -> str:
    """A push whose worker dies in the middle of it."""
    async with server.worker() as doomed, server.worker(targets=[]) as undertaker:
        stream = await doomed.connect(credits=1)
        (task,) = await server.submit_pushes(path)
        await stream.next_assignment()
        await stream.cut()
        await undertaker.connect(dead_sessions=[doomed.session_id])
    return task.id


async def test_temps_of_a_lost_attempt_are_a_debt_that_one_worker_pays(server: FleetServer, worker: FakeWorker) -> None:
    task_id = await lose_an_attempt(server)
    async with server.worker() as other:
        stream = await worker.connect()
        second = await other.connect()
        await stream.until(lambda: stream.debts)
        (debt,) = stream.debts
        assert list(debt.temps) == list(temps_of("/etc/motd", task_id, 1))
        assert debt.instance == pb.InstanceRef(target="default", instance="c1")
        assert second.debts == []
        # A stranger's word does not pay it.
        await second.say(debts=[pb.DebtReport(debt_id=debt.debt_id, paid=True)])
        await second.ask_grant(pb.Assignment(attempt=1, task=task_pb2.Task(id="no-such-task")))
        assert len(await server.store.debts(["default"])) == 1
        await stream.say(debts=[pb.DebtReport(debt_id=debt.debt_id, paid=True)])

        async def is_paid() -> bool:
            return not await server.store.debts(["default"])

        await server.until(is_paid)


async def test_an_unanswered_debt_goes_to_another_worker_when_its_worker_goes(
    server: FleetServer, worker: FakeWorker
) -> None:
    await lose_an_attempt(server)
    stream = await worker.connect()
    await stream.until(lambda: stream.debts)
    async with server.worker() as other:
        second = await other.connect()
        await stream.cut()
        await second.until(lambda: second.debts)
        assert second.debts[0].debt_id == stream.debts[0].debt_id


async def test_a_report_that_left_temps_makes_a_debt(tmp_path: Path) -> None:
    async with fleet_server(tmp_path, policy=Policy()) as server, server.worker() as worker:
        stream = await worker.connect(credits=1)
        await server.submit_pushes("/etc/motd")
        assignment = await stream.next_assignment()
        await stream.report(assignment, pb.OUTCOME_PERMANENT, reason="NO_SPACE", left_temps=True)
        await stream.until(lambda: stream.debts)
        assert list(stream.debts[0].temps) == list(temps_of("/etc/motd", assignment.task.id, 1))
