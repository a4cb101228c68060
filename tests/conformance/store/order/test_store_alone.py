"""After a crash a task runs alone, and only its own crashes count against it (P9)."""

from __future__ import annotations

from longshore.server.model.events import Policy
from longshore.server.model.task import Task
from longshore.server.model.values import Outcome, State
from tests.conformance.conftest import OpenStore
from tests.support.stores.claims import crash
from tests.support.stores.store import ManualClock, StoreFleet, job, plan, push


async def test_after_a_crash_a_task_runs_alone(fleet: StoreFleet) -> None:
    await fleet.session("doomed")
    await fleet.submit()
    (crashed,) = await fleet.claim("doomed")
    await crash(fleet, "doomed")
    again = await fleet.now(crashed)
    assert (again.status.state, again.status.crashes, again.status.alone) == (State.QUEUED, 1, True)
    await fleet.submit(plan(push("/b")), plan(push("/c")))
    await fleet.session("one")
    await fleet.session("two")
    claims = await fleet.offers(fleet.offer("one", room=4, idle=False), fleet.offer("two", room=4, idle=False))
    assert crashed.id not in [task.id for _, task in claims.taken]
    assert len(claims.taken) == 2
    assert claims.solo_waiting == ("one", "two")
    await fleet.submit(plan(push("/d")))
    await fleet.session("idle")
    taken = await fleet.claim("idle", room=4)
    assert [task.id for task in taken] == [crashed.id], "alone, and nothing beside it"
    assert await fleet.claim("idle", room=4, idle=False) == [], "not even later"
    assert (await fleet.offers(fleet.offer("one", room=4, idle=False))).solo_waiting == ()
    (attempt,) = await fleet.store.attempts(crashed.id, last=1)
    assert attempt.alone


async def test_an_idle_offer_of_a_busy_session_gets_no_solo_task(fleet: StoreFleet) -> None:
    await fleet.session("doomed")
    await fleet.submit()
    await fleet.claim("doomed")
    await crash(fleet, "doomed")
    await fleet.session()
    await fleet.submit(plan(job()))
    claims = await fleet.offers(fleet.offer(room=2, idle=False))
    assert len(claims.taken) == 1
    claims = await fleet.offers(fleet.offer(room=1, idle=True))
    assert (claims.taken, claims.solo_waiting) == ((), ("session-1",))


async def test_a_poison_task_fails_after_the_solo_limit_and_no_other_task_does(
    open_store: OpenStore, clock: ManualClock
) -> None:
    async with open_store(clock, policy=Policy(solo_limit=2)) as store:
        fleet = StoreFleet(store, clock)
        await fleet.session("s0")
        poison, innocent = await fleet.submit(plan(), plan(push("/b")))
        await fleet.claim("s0", room=2)
        await crash(fleet, "s0")
        await fleet.session("helper")
        helped = []
        for number in (1, 2, 3, 4):
            await fleet.session(f"s{number}", kinds={"file_push": True})
            taken = await fleet.claim(f"s{number}")
            if not taken:
                break
            if taken[0].id == innocent.id:
                helped.append(await fleet.deliver(taken[0], f"s{number}"))
            else:
                await crash(fleet, f"s{number}")
        assert await fleet.states(poison, innocent) == ["FAILED", "SUCCEEDED"]
        failed = (await fleet.now(poison)).status
        assert (failed.crashes, failed.solo_crashes) == (3, 2)
        assert failed.error is not None
        assert failed.error.reason == "WORKER_CRASHED"
        assert len(await store.attempts(poison.id)) == 3
        await fleet.whole()


async def claimed_alone(fleet: StoreFleet, session: str) -> Task:
    await fleet.session(session)
    ((_, task),) = (await fleet.offers(fleet.offer(session, begins=True))).taken
    assert task.status.alone
    return task


async def test_only_a_crash_after_begin_counts_against_the_task(open_store: OpenStore, clock: ManualClock) -> None:
    async with open_store(clock, policy=Policy(solo_limit=2)) as store:
        fleet = StoreFleet(store, clock)
        await fleet.session("s0")
        (first,) = await fleet.submit()
        await fleet.claim("s0")
        await crash(fleet, "s0")
        for number in range(5):
            await claimed_alone(fleet, f"innocent-{number}")
            await crash(fleet, f"innocent-{number}")
        status = (await fleet.now(first)).status
        assert (status.state, status.crashes, status.solo_crashes) == (State.QUEUED, 6, 0)
        for number in range(2):
            task = await claimed_alone(fleet, f"guilty-{number}")
            assert (await fleet.begin(task, f"guilty-{number}")).begun
            revision = (await fleet.now(task)).status.revision
            assert (await fleet.begin(task, f"guilty-{number}")).begun, "the answer was lost, say"
            assert (await fleet.now(task)).status.revision == revision
            # A report by its worker takes the suspicion back.
            if not number:
                assert await fleet.report(task, Outcome.HANDED_BACK, f"guilty-{number}")
                task = await claimed_alone(fleet, f"guilty-{number}")
                assert (await fleet.begin(task, f"guilty-{number}")).begun
            await crash(fleet, f"guilty-{number}")
        status = (await fleet.now(first)).status
        assert (status.state, status.crashes, status.solo_crashes) == (State.FAILED, 8, 2)
        await fleet.whole()


async def test_a_begin_is_refused_after_whatever_came_first(fleet: StoreFleet) -> None:
    await fleet.session("s0")
    await fleet.submit()
    await fleet.claim("s0")
    await crash(fleet, "s0")
    task = await claimed_alone(fleet, "one")
    first = fleet.epoch("one")
    await fleet.session("one", held=[(task.id, task.status.attempt)])
    assert (await fleet.begin(task, "one", epoch=first)).reason == "REVOKED", "an older epoch says nothing"
    assert (await fleet.now(task)).status.started_at is None
    await fleet.session("two")
    assert (await fleet.begin(task, "two")).reason == "REVOKED"
    await fleet.cancel(task)
    answer = await fleet.begin(task, "one")
    assert (answer.begun, answer.reason) == (False, "CANCELLED")
