"""Sessions: epochs, leases, what is held, target identities; grants and reports are fenced (P6, P8, P9, P12)."""

from __future__ import annotations

import pytest

from longshore.server.model.errors import EpochSuperseded, Forbidden, NotFound, TargetIdentity
from longshore.server.model.events import Reported
from longshore.server.model.task import Grant, Task
from longshore.server.model.values import DeliveryMethod, Outcome, State, WaitReason
from longshore.server.store.commands import (
    Disconnect,
    DrainSession,
    ExtendLeases,
    FileReports,
    PayDebt,
    PurgeTasks,
    ReapSessions,
    RenewLeases,
    RequestGrants,
    WakeParked,
    Woken,
)
from tests.conformance.conftest import OpenStore
from tests.support.stores.store import LEASE, ManualClock, StoreFleet, job, plan, push


async def running(fleet: StoreFleet, path: str = "/etc/motd") -> Task:
    await fleet.submit(plan(push(path)))
    return await fleet.claim_one()


# Connections ----------------------------------------------------------------------------------------------------------


async def test_each_connection_is_a_new_epoch(fleet: StoreFleet) -> None:
    first = await fleet.session(worker="w1", targets={"a": "x"}, kinds={"file_push": True, "k": False})
    assert (first.epoch, first.worker, first.connected, first.draining, first.held) == (1, "w1", True, False, ())
    assert (dict(first.targets), dict(first.kinds)) == ({"a": "x"}, {"file_push": True, "k": False})
    assert first.lease_ticks == fleet.clock.ticks() + LEASE
    assert await fleet.store.session("session-1") == first
    fleet.clock.advance(5)
    second = await fleet.session(worker="w2", targets={"b": ""})
    assert (second.epoch, second.worker, dict(second.targets)) == (2, "w2", {"b": ""})
    assert second.started_at == first.started_at
    assert await fleet.store.sessions() == [second]
    assert await fleet.store.session("unknown") is None


async def test_a_hello_that_comes_after_a_later_one_changes_nothing(fleet: StoreFleet) -> None:
    assert (await fleet.session(epoch=1)).epoch == 1
    newest = await fleet.session(epoch=4)  # two were never read
    assert newest.epoch == 4
    task = await running(fleet)
    for late in (2, 3, 4):
        with pytest.raises(EpochSuperseded):
            await fleet.session(epoch=late, worker="late", targets={}, dead_sessions=["session-2"])
    now = await fleet.store.session("session-1")
    assert now is not None
    assert (now.epoch, now.worker, now.held) == (4, newest.worker, ((task.id, 1),))
    report = Reported("session-1", 1, Outcome.PERMANENT)
    assert await fleet.run(FileReports(session_id="session-1", epoch=4, reports=((task.id, report),))) == (True,)
    assert (await fleet.session()).epoch == 5, "a worker that does not count"


async def test_an_assignment_that_never_arrived_is_queued_again_at_no_cost(fleet: StoreFleet) -> None:
    await fleet.session()
    lost = await running(fleet)
    kept = await running(fleet, "/kept")
    session = await fleet.session(held=[(kept.id, 1), ("0" * 26, 7), (lost.id, 99)])
    assert session.held == ((kept.id, 1),)
    status = (await fleet.now(lost)).status
    assert (status.state, status.crashes, status.tries, status.alone) == (State.QUEUED, 0, 0, False)
    assert (await fleet.store.attempts(lost.id))[0].end == "NEVER_ARRIVED"
    assert (await fleet.claim_one()).status.attempt == 2, "its number is not issued again"


async def test_a_granted_attempt_that_is_not_held_is_settled(fleet: StoreFleet) -> None:
    await fleet.session()
    task = await running(fleet)
    await fleet.grant(task)
    await fleet.session()
    status = (await fleet.now(task)).status
    assert (status.state, status.crashes, status.session_id) == (State.SETTLING, 0, "")


async def test_sessions_known_to_be_dead_are_lost_at_once(fleet: StoreFleet) -> None:
    await fleet.session()
    task = await running(fleet)
    await fleet.session("other", principal="somebody")
    await fleet.session("next", dead_sessions=["session-1", "other", "unknown", "next"])
    assert (await fleet.now(task)).status.crashes == 1
    assert [session.id for session in await fleet.store.sessions()] == ["next", "other"]
    assert fleet.changes[-1].sessions_ended == ("session-1",)


async def test_a_session_belongs_to_one_principal(fleet: StoreFleet) -> None:
    await fleet.session(principal="fleet")
    with pytest.raises(Forbidden):
        await fleet.session(principal="thief")
    assert (await fleet.store.sessions())[0].epoch == 1
    fleet.clock.advance(LEASE)
    assert await fleet.run(ReapSessions()) == ("session-1",)
    with pytest.raises(Forbidden):
        await fleet.session(principal="thief")


async def test_a_session_that_ended_begins_anew_with_a_later_epoch(fleet: StoreFleet) -> None:
    await fleet.session()
    task = await running(fleet)
    fleet.clock.advance(LEASE)
    await fleet.run(ReapSessions())
    session = await fleet.session(held=[(task.id, 1)])
    assert (session.epoch, session.held, session.started_at) == (2, (), fleet.clock.now())


async def test_a_disconnected_session_lives_on(fleet: StoreFleet) -> None:
    await fleet.session()
    task = await running(fleet)
    await fleet.session(held=[(task.id, 1)])
    await fleet.run(Disconnect(session_id="session-1", epoch=1))
    assert (await fleet.store.sessions())[0].connected, "an older connection's end means nothing"
    await fleet.run(Disconnect(session_id="session-1", epoch=2))
    session = await fleet.store.session("session-1")
    assert session is not None
    assert (session.connected, session.held) == (False, ((task.id, 1),))
    await fleet.run(Disconnect(session_id="unknown", epoch=1))


async def test_goodbye_ends_the_session_and_costs_nothing(fleet: StoreFleet) -> None:
    await fleet.session()
    task = await running(fleet)
    await fleet.run(Disconnect(session_id="session-1", epoch=9, goodbye=True))
    assert await fleet.state(task) is State.RUNNING
    await fleet.run(Disconnect(session_id="session-1", epoch=1, goodbye=True))
    assert await fleet.store.sessions() == []
    assert fleet.changes[-1].sessions_ended == ("session-1",)
    status = (await fleet.now(task)).status
    assert (status.state, status.crashes) == (State.QUEUED, 0)


async def test_drain(fleet: StoreFleet) -> None:
    await fleet.session()
    task = await running(fleet)
    drained = await fleet.run(DrainSession(session_id="session-1"))
    assert (drained.draining, drained.held) == (True, ((task.id, 1),))
    assert (await fleet.run(DrainSession(session_id="session-1"))).draining
    assert (await fleet.session(held=[(task.id, 1)])).draining, "it stays told"
    with pytest.raises(NotFound):
        await fleet.run(DrainSession(session_id="unknown"))


@pytest.mark.parametrize("size", [1 << 20, 16 << 20])
async def test_more_than_a_socket_takes_at_once_is_read_to_its_end(fleet: StoreFleet, size: int) -> None:
    with pytest.raises(NotFound):
        await fleet.run(DrainSession(session_id="x" * size))
    await fleet.submit()


# Target identities ----------------------------------------------------------------------------------------------------


async def test_a_name_is_bound_by_a_session_that_is_alive(fleet: StoreFleet) -> None:
    await fleet.session("one", targets={"default": "daemon-a"})
    await fleet.session("same", targets={"default": "daemon-a"})
    await fleet.session("nobody", targets={"default": ""})
    with pytest.raises(TargetIdentity) as refused:
        await fleet.session("two", targets={"fresh": "x", "default": "daemon-b"})
    assert refused.value.metadata["target"] == "default"
    assert "two" not in [session.id for session in await fleet.store.sessions()]
    await fleet.run(Disconnect(session_id="one", epoch=1, goodbye=True))
    with pytest.raises(TargetIdentity):
        await fleet.session("two", targets={"default": "daemon-b"})
    # Its last servant may change its mind, for nothing ran there.
    await fleet.session("same", targets={"default": "daemon-b"})
    await fleet.session("two", targets={"default": "daemon-b"})


async def test_a_name_is_bound_by_a_task_that_ran_there(fleet: StoreFleet) -> None:
    await fleet.session(targets={"default": "daemon-a"})
    task = await running(fleet)
    await fleet.deliver(task)
    await fleet.run(Disconnect(session_id="session-1", epoch=1, goodbye=True))
    with pytest.raises(TargetIdentity):
        await fleet.session("two", targets={"default": "daemon-b"})
    await fleet.session("three", targets={"default": "daemon-a"})
    await fleet.run(Disconnect(session_id="three", epoch=1, goodbye=True))
    fleet.clock.advance(8 * 86400)
    assert await fleet.run(PurgeTasks(age=7 * 86400)) == 1
    await fleet.session("two", targets={"default": "daemon-b"})


async def test_a_dead_session_binds_nothing(fleet: StoreFleet) -> None:
    await fleet.session("one", targets={"default": "daemon-a"})
    await fleet.session("two", targets={"default": "daemon-b"}, dead_sessions=["one"])


# Leases ---------------------------------------------------------------------------------------------------------------


async def test_renewed_leases(fleet: StoreFleet) -> None:
    await fleet.session("one")
    await fleet.session("two")
    await fleet.session("two")
    await fleet.session("gone")
    await fleet.run(Disconnect(session_id="gone", epoch=1, goodbye=True))
    fleet.clock.advance(20)
    renewed = await fleet.run(RenewLeases(sessions=(("one", 1), ("two", 1), ("gone", 1), ("unknown", 1)), lease=LEASE))
    assert renewed == {"one"}
    fleet.clock.advance(LEASE - 20)
    assert await fleet.run(ReapSessions()) == ("two",)
    assert [session.id for session in await fleet.store.sessions()] == ["one"]


async def test_a_lost_session_counts_a_crash_for_its_running_tasks(fleet: StoreFleet) -> None:
    await fleet.session()
    task, granted, cancelled = [await running(fleet, path) for path in ("/a", "/b", "/c")]
    await fleet.grant(granted)
    await fleet.cancel(cancelled)
    fleet.clock.advance(LEASE - 1)
    assert await fleet.run(ReapSessions()) == ()
    fleet.clock.advance(1)
    assert await fleet.run(ReapSessions()) == ("session-1",)
    assert await fleet.states(task, granted, cancelled) == ["QUEUED", "SETTLING", "CANCELLED"]
    assert fleet.changes[-1].sessions_ended == ("session-1",)
    assert {change.holder for change in fleet.changes[-1].tasks} == {("session-1", 1)}
    status = (await fleet.now(task)).status
    assert (status.crashes, status.solo_crashes, status.alone, status.tries) == (1, 0, True, 0)
    assert (await fleet.store.attempts(task.id))[0].end == "LOST"
    assert await fleet.run(ReapSessions()) == ()


async def test_reaping_is_limited(fleet: StoreFleet) -> None:
    for number in range(3):
        await fleet.session(f"s{number}")
        fleet.clock.advance(1)
    fleet.clock.advance(LEASE)
    assert await fleet.run(ReapSessions(limit=2)) == ("s0", "s1")
    assert await fleet.run(ReapSessions(limit=2)) == ("s2",)


async def test_delayed_reaping_spares_sessions_that_were_alive_when_it_was_asked_for(fleet: StoreFleet) -> None:
    await fleet.session()
    fleet.clock.advance(LEASE - 1)
    asked_at = fleet.clock.ticks()
    fleet.clock.advance(10)  # the commit before it hangs, and renewals wait too
    assert await fleet.run(ReapSessions(before=asked_at)) == ()
    assert await fleet.run(ReapSessions(before=fleet.clock.ticks())) == ("session-1",)


async def test_renewals_go_before_reaping_in_a_group(fleet: StoreFleet) -> None:
    await fleet.session()
    fleet.clock.advance(LEASE + 1)
    reaped, renewed = await fleet.together(ReapSessions(), RenewLeases(sessions=(("session-1", 1),), lease=LEASE))
    assert (reaped, renewed) == ((), {"session-1"})


async def test_after_a_start_every_lease_and_deadline_runs_from_now(open_store: OpenStore, clock: ManualClock) -> None:
    async with open_store(clock) as store:
        fleet = StoreFleet(store, clock)
        await fleet.session()
        task, cancelled = await running(fleet), await running(fleet, "/b")
        await fleet.cancel(cancelled)
    clock.reboot()
    async with open_store(clock) as store:
        fleet = StoreFleet(store, clock)
        await store.run(ExtendLeases(lease=LEASE))
        session = await store.session("session-1")
        assert session is not None
        assert (session.connected, session.lease_ticks) == (False, clock.ticks() + LEASE)
        assert (await fleet.now(task)).status.deadline_ticks == clock.ticks() + task.submission.terms.run_timeout
        assert (await fleet.now(cancelled)).status.deadline_ticks == clock.ticks() + 30.0
        assert (await fleet.tick()).next_ticks == clock.ticks() + 30.0
        clock.advance(30)
        assert (await fleet.tick()).changed == 1
        assert await fleet.states(task, cancelled) == ["RUNNING", "CANCELLED"]


# Grants and reports ---------------------------------------------------------------------------------------------------


async def test_a_grant_is_durable_and_names_its_temp(fleet: StoreFleet) -> None:
    await fleet.session()
    task = await running(fleet)
    fleet.clock.advance(3)
    assert (await fleet.grant(task, temp="/etc/.t1")).granted
    status = (await fleet.now(task)).status
    assert status.state is State.COMMITTING
    assert status.grant == Grant(
        1, "session-1", "/etc/.t1", DeliveryMethod.SFTP, fleet.clock.now(), crc32c=7, mode=0o644, uid=0, gid=0
    )
    assert (await fleet.grant(task, temp="/etc/.t1")).granted, "the same again"
    assert (await fleet.now(task)).status == status
    assert (await fleet.store.attempts(task.id))[0].granted_at == fleet.clock.now()
    assert (await fleet.grant(task, temp="/etc/.t2")).reason == "STALE"


async def test_why_a_grant_is_refused(fleet: StoreFleet) -> None:
    await fleet.session()
    cancelled = await running(fleet, "/c")
    await fleet.cancel(cancelled)
    assert (await fleet.grant(cancelled)).reason == "CANCELLED"
    task = await running(fleet)
    await fleet.session("other")
    assert (await fleet.grant(task, "other")).reason == "REVOKED"
    await fleet.session(held=[(cancelled.id, 1)])
    assert (await fleet.grant(task)).reason == "REVOKED", "it never arrived"
    grant = Grant(1, "session-1", "", DeliveryMethod.SFTP, 0.0)
    for session, epoch in (("session-1", 1), ("unknown", 1)):
        answers = await fleet.run(RequestGrants(session_id=session, epoch=epoch, requests=((cancelled.id, grant),)))
        assert [(answer.granted, answer.reason) for answer in answers] == [(False, "REVOKED")]
    answers = await fleet.run(RequestGrants(session_id="session-1", epoch=2, requests=(("0" * 26, grant),)))
    assert [(answer.task_id, answer.attempt, answer.reason) for answer in answers] == [("0" * 26, 1, "STALE")]


async def test_a_grant_is_asked_in_the_sessions_own_name_only(fleet: StoreFleet) -> None:
    await fleet.session()
    task = await running(fleet)
    await fleet.session("thief")
    stolen = Grant(1, "session-1", "/etc/.t", DeliveryMethod.SFTP, 0.0)
    answers = await fleet.run(RequestGrants(session_id="thief", epoch=1, requests=((task.id, stolen),)))
    assert not answers[0].granted
    report = Reported("session-1", 1, Outcome.PERMANENT)
    assert await fleet.run(FileReports(session_id="thief", epoch=1, reports=((task.id, report),))) == (False,)
    assert await fleet.state(task) is State.RUNNING


async def test_reports_of_older_epochs_count_for_nothing(fleet: StoreFleet) -> None:
    await fleet.session()
    task = await running(fleet)
    await fleet.session(held=[(task.id, 1)])
    report = Reported("session-1", 1, Outcome.PERMANENT)
    assert await fleet.run(FileReports(session_id="session-1", epoch=1, reports=((task.id, report),))) == (False,)
    reports = (("0" * 26, report), (task.id, report), (task.id, report))
    counted = await fleet.run(FileReports(session_id="session-1", epoch=2, reports=reports))
    assert counted == (False, True, False)


async def test_a_success_reported_twice_counts_twice(fleet: StoreFleet) -> None:
    await fleet.session()
    task = await fleet.deliver(await running(fleet))
    assert await fleet.report(task, Outcome.OK)
    assert await fleet.now(task) == task
    assert not await fleet.report(task, Outcome.TRANSIENT)


async def test_a_push_cannot_succeed_without_a_grant_and_a_job_can(fleet: StoreFleet) -> None:
    await fleet.session()
    task = await running(fleet)
    assert not await fleet.report(task, Outcome.OK)
    await fleet.submit(plan(job()))
    done = await fleet.claim_one()
    assert await fleet.report(done, Outcome.OK)
    assert await fleet.states(task, done) == ["RUNNING", "SUCCEEDED"]


# Parking --------------------------------------------------------------------------------------------------------------


async def parked(fleet: StoreFleet, path: str, instance: str, reason: WaitReason) -> Task:
    await fleet.submit(plan(push(path, instance)))
    task = await fleet.claim_one()
    assert await fleet.report(task, Outcome.NOT_READY, wait_reason=reason)
    found = await fleet.now(task)
    assert (found.status.state, found.status.due_at, found.status.tries) == (State.SCHEDULED, None, 0)
    return found


async def test_parked_tasks_are_woken_by_their_instance(fleet: StoreFleet) -> None:
    await fleet.session()
    stopped = await parked(fleet, "/a", "web1", WaitReason.INSTANCE_STOPPED)
    absent = await parked(fleet, "/b", "web1", WaitReason.INSTANCE_ABSENT)
    other = await parked(fleet, "/c", "web2", WaitReason.INSTANCE_STOPPED)
    assert [each.instance for each in await fleet.store.parked("default")] == ["web1", "web2"]
    assert await fleet.store.parked("other") == []
    assert (await fleet.store.figures()).targets[0].parked == 3
    fleet.clock.advance(86400)
    assert (await fleet.tick()).changed == 0, "no time ends parking but the expiry"

    def wake(instance: str, *, running: bool) -> WakeParked:
        return WakeParked(target="default", project="", instance=instance, running=running)

    assert await fleet.run(wake("web9", running=True)) == Woken(0, more=False)
    assert await fleet.run(wake("web1", running=False)) == Woken(1, more=False)
    assert await fleet.states(stopped, absent, other) == ["SCHEDULED", "QUEUED", "SCHEDULED"]
    assert await fleet.run(wake("web1", running=True)) == Woken(1, more=False)
    assert await fleet.run(wake("web1", running=True)) == Woken(0, more=False)
    assert await fleet.run(wake("", running=True)) == Woken(1, more=False)
    assert await fleet.states(stopped, absent, other) == ["QUEUED"] * 3
    assert await fleet.store.parked("default") == []


@pytest.mark.parametrize("instance", ["web1", ""])
async def test_a_crowd_of_parked_tasks_is_woken_bit_by_bit(fleet: StoreFleet, instance: str) -> None:
    """Each bit is a transaction; what waits for something else takes nobody's place in it."""
    await fleet.session()
    stopped = [await parked(fleet, f"/stopped{number}", "web1", WaitReason.INSTANCE_STOPPED) for number in range(3)]
    absent = [await parked(fleet, f"/absent{number}", "web1", WaitReason.INSTANCE_ABSENT) for number in range(5)]

    async def wake(*, running: bool) -> Woken:
        command = WakeParked(target="default", project="", instance=instance, running=running, limit=2)
        return await fleet.run(command)

    assert await wake(running=False) == Woken(2, more=True)
    assert await fleet.states(*absent) == ["QUEUED"] * 2 + ["SCHEDULED"] * 3
    assert await wake(running=False) == Woken(2, more=True)
    assert await wake(running=False) == Woken(1, more=False)
    assert await fleet.states(*stopped) == ["SCHEDULED"] * 3
    assert await wake(running=True) == Woken(2, more=True)
    assert await wake(running=True) == Woken(1, more=False)


async def test_parked_tasks_expire(fleet: StoreFleet) -> None:
    await fleet.session()
    task = await parked(fleet, "/a", "web1", WaitReason.INSTANCE_ABSENT)
    assert (await fleet.tick()).next_at == task.submission.expires_at
    fleet.clock.advance(task.submission.expires_at - fleet.clock.now())
    await fleet.tick()
    assert await fleet.state(task) is State.EXPIRED


# Debts ----------------------------------------------------------------------------------------------------------------


async def test_a_lost_attempt_leaves_a_debt_that_is_asked_for_twice(fleet: StoreFleet) -> None:
    await fleet.session()
    task = await running(fleet)
    fleet.clock.advance(LEASE)
    await fleet.run(ReapSessions())
    assert fleet.changes[-1].debts
    (debt,) = await fleet.store.debts(["default", "other"])
    assert (debt.destination, debt.task_id, debt.attempt, debt.temp) == (push().destination, task.id, 1, "")
    assert await fleet.store.debts(["other"]) == []
    assert (await fleet.store.figures()).targets[0].debts == 1
    await fleet.run(PayDebt(debt_id=debt.id, again=600.0))
    assert await fleet.store.debts(["default"]) == []
    # Another server had asked for it at the same time: that is not the second time.
    await fleet.run(PayDebt(debt_id=debt.id, again=600.0))
    fleet.clock.advance(600)
    assert await fleet.store.debts(["default"]) == [debt], "its worker might have been asleep"
    await fleet.run(PayDebt(debt_id=debt.id))
    fleet.clock.advance(86400)
    assert await fleet.store.debts(["default"]) == []
    await fleet.run(PayDebt(debt_id=debt.id))


async def test_a_debt_that_cannot_be_paid_makes_way_for_others(fleet: StoreFleet) -> None:
    """P12: a hundred temps on a read-only disk hide nobody else's."""
    await fleet.session()
    for path in ("/etc/a", "/etc/b"):
        await running(fleet, path)
    fleet.clock.advance(LEASE)
    await fleet.run(ReapSessions())
    (first,) = await fleet.store.debts(["default"], limit=1)
    await fleet.run(PayDebt(debt_id=first.id, paid=False, again=30.0))
    (second,) = await fleet.store.debts(["default"])
    assert second != first
    fleet.clock.advance(30)
    assert {debt.id for debt in await fleet.store.debts(["default"])} == {first.id, second.id}


async def test_an_assignment_that_never_arrived_leaves_no_debt(fleet: StoreFleet) -> None:
    await fleet.session()
    await running(fleet)
    await fleet.session()
    assert await fleet.store.debts(["default"]) == []


async def test_temps_that_a_worker_could_not_remove(fleet: StoreFleet) -> None:
    await fleet.session()
    task = await running(fleet)
    await fleet.report(task, Outcome.PERMANENT, left_temps=True)
    assert len(await fleet.store.debts(["default"])) == 1
    assert len(await fleet.store.debts(["default"], limit=0)) == 0
