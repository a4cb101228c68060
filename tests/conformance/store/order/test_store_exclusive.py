"""Nothing of an instance runs beside an exclusive task, and no side waits longer than for those before it (P16)."""

from __future__ import annotations

import random
from typing import Any

import pytest

from longshore.server.model.errors import OldServers
from longshore.server.model.task import Job, Task, Work
from longshore.server.model.values import Outcome, Settlement, State, WaitReason
from longshore.server.store.commands import PauseQueue, SettleTask, WakeParked
from longshore.server.store.protocol import InstanceKey
from longshore.server.store.tables.schema_version import OURS
from tests.conformance.conftest import OpenStore
from tests.support.stores.store import ManualClock, StoreFleet, job, plan, push

WEB1 = InstanceKey("default", "", "web1")


def shared(**more: Any) -> Job:
    return job(target="default", instance="web1", **more)


def exclusive(**more: Any) -> Job:
    return shared(exclusive=True, **more)


async def claimed(fleet: StoreFleet, *, room: int = 9) -> list[str]:
    return [task.id for task in await fleet.claim(room=room)]


async def done(fleet: StoreFleet, *tasks: Task) -> None:
    for task in tasks:
        assert await fleet.report(await fleet.now(task), Outcome.OK)


async def test_an_exclusive_task_runs_alone_between_those_before_and_those_after(fleet: StoreFleet) -> None:
    await fleet.session()
    before, alone, after = await fleet.submit(plan(push("/a")), plan(exclusive()), plan(shared(), priority=9))
    (elsewhere,) = await fleet.submit(plan(push("/a", "web2")))
    assert await claimed(fleet) == [before.id, elsewhere.id], "not later ones, whatever their priority"
    assert await claimed(fleet) == []
    await fleet.deliver(await fleet.now(before))
    assert await claimed(fleet) == [alone.id]
    assert await claimed(fleet) == []
    await done(fleet, alone)
    assert await claimed(fleet) == [after.id]


async def test_later_tasks_wait_for_an_exclusive_one_that_waits(fleet: StoreFleet) -> None:
    await fleet.session()
    (running,) = await fleet.submit(plan(shared()))
    assert await claimed(fleet) == [running.id]
    first, second = await fleet.submit(plan(exclusive()), plan(exclusive()))
    (late,) = await fleet.submit(plan(push("/late")))
    assert await claimed(fleet) == []
    await done(fleet, running)
    assert await claimed(fleet) == [first.id]
    await done(fleet, first)
    assert await claimed(fleet) == [second.id], "in the order of acceptance"
    await done(fleet, second)
    assert await claimed(fleet) == [late.id]


async def test_an_exclusive_task_that_cannot_run_bars_nobody(fleet: StoreFleet) -> None:
    await fleet.session()
    not_due, head = await fleet.submit(plan(exclusive(), not_before=60.0), plan(exclusive(key="a")))
    (blocked,) = await fleet.submit(plan(exclusive(key="a")))
    assert await claimed(fleet) == [head.id]
    await fleet.report(await fleet.now(head), Outcome.NOT_READY, wait_reason=WaitReason.INSTANCE_STOPPED)
    assert await fleet.states(not_due, head, blocked) == ["SCHEDULED", "SCHEDULED", "BLOCKED"]
    (other,) = await fleet.submit(plan(shared()))
    assert await claimed(fleet) == [other.id]
    await fleet.run(WakeParked(target="default", project="", instance="web1", running=True))
    fleet.clock.advance(61.0)
    await fleet.tick()
    (late,) = await fleet.submit(plan(shared()))
    assert await claimed(fleet) == []
    await done(fleet, other)
    for each in (not_due, head, blocked, late):
        assert await claimed(fleet) == [each.id]
        await done(fleet, each)


async def test_a_paused_queue_holds_no_exclusive_task_in_front_of_others(fleet: StoreFleet) -> None:
    await fleet.session()
    alone, after = await fleet.submit(plan(exclusive(), queue="nightly"), plan(shared()))
    await fleet.run(PauseQueue(queue="nightly", paused=True))
    assert await claimed(fleet) == [after.id]
    await fleet.run(PauseQueue(queue="nightly", paused=False))
    (late,) = await fleet.submit(plan(shared()))
    assert await claimed(fleet) == []
    await done(fleet, after)
    assert await claimed(fleet) == [alone.id]
    await done(fleet, alone)
    assert await claimed(fleet) == [late.id]


@pytest.mark.parametrize("how", ["cancel", "expiry"])
async def test_an_exclusive_task_that_ends_unstarted_lets_all_kinds_go_on(fleet: StoreFleet, how: str) -> None:
    await fleet.session()
    (running,) = await fleet.submit(plan(shared()))
    assert await claimed(fleet) == [running.id]
    (alone,) = await fleet.submit(plan(exclusive(), expire_after=50.0))
    others = await fleet.submit(plan(push("/a")), plan(shared()))
    assert await claimed(fleet) == []
    if how == "cancel":
        await fleet.cancel(alone)
    else:
        fleet.clock.advance(50.0)
        await fleet.tick()
    assert await claimed(fleet) == [task.id for task in others]


async def test_an_open_outcome_is_waited_for_and_only_settled_meanwhile(fleet: StoreFleet) -> None:
    await fleet.session()
    (pushed,) = await fleet.submit(plan(push("/a")))
    (taken,) = await fleet.claim()
    assert (await fleet.grant(taken)).granted
    (alone,) = await fleet.submit(plan(exclusive()))
    await fleet.session("session-2", dead_sessions=["session-1"])
    assert await fleet.state(pushed) is State.SETTLING
    taken_now = await fleet.claim("session-2", room=9)
    assert [(task.id, task.status.state) for task in taken_now] == [(pushed.id, State.SETTLING)]
    await fleet.session("session-3", dead_sessions=["session-2"])
    # Nobody settles now, and an operator says what became of the commit.
    await fleet.run(SettleTask(task_id=pushed.id, settlement=Settlement.LANDED))
    assert [task.id for task in await fleet.claim("session-3", room=9)] == [alone.id]


async def test_an_exclusive_task_whose_outcome_is_open_keeps_the_instance(fleet: StoreFleet) -> None:
    kinds = {"file_push": True, "report": True}
    await fleet.session(kinds=kinds)
    (alone,) = await fleet.submit(plan(exclusive()))
    (taken,) = await fleet.claim()
    assert (await fleet.grant(taken)).granted
    (after,) = await fleet.submit(plan(push("/a")))
    await fleet.session("session-2", dead_sessions=["session-1"], kinds=kinds)
    settling = await fleet.claim("session-2", room=9)
    assert [(task.id, task.status.state) for task in settling] == [(alone.id, State.SETTLING)]
    assert await fleet.claim("session-2", room=9) == []
    await fleet.report(settling[0], Outcome.SETTLED_LANDED, "session-2")
    assert [task.id for task in await fleet.claim("session-2", room=9)] == [after.id]


async def test_a_lost_exclusive_task_runs_again_before_those_that_came_later(fleet: StoreFleet) -> None:
    await fleet.session()
    alone, after = await fleet.submit(plan(exclusive()), plan(push("/a")))
    assert await claimed(fleet) == [alone.id]
    await fleet.session("session-2", dead_sessions=["session-1"])
    assert [task.id for task in await fleet.claim("session-2", room=9)] == [alone.id]
    await fleet.cancel(alone)
    assert await fleet.claim("session-2", room=9) == [], "until it has stopped"
    await fleet.report(await fleet.now(alone), Outcome.STOPPED, "session-2")
    assert [task.id for task in await fleet.claim("session-2", room=9)] == [after.id]


async def test_projects_are_instances_of_their_own(fleet: StoreFleet) -> None:
    await fleet.session(revision=2)
    alone, named, other = await fleet.submit(
        plan(exclusive()), plan(exclusive(project="default")), plan(exclusive(project="shop"))
    )
    claims = await fleet.offers(fleet.offer(room=9, revision=2))
    assert [task.id for _, task in claims.taken] == [alone.id, other.id], "the default project, named or not, is one"
    assert await fleet.state(named) is State.QUEUED


async def test_why_a_task_waits_names_the_exclusive_one(fleet: StoreFleet) -> None:
    await fleet.session()
    (running,) = await fleet.submit(plan(shared()))
    assert (await fleet.store.conditions({WEB1})).exclusive == {}
    await fleet.claim()
    first, _second = await fleet.submit(plan(exclusive()), plan(exclusive()))
    (known,) = (await fleet.store.conditions({WEB1})).exclusive.values()
    assert (known.running, known.first, known.first_seq, known.first_ready) == (
        "",
        first.id,
        first.submission.seq,
        False,
    )
    await done(fleet, running)
    (known,) = (await fleet.store.conditions({WEB1})).exclusive.values()
    assert (known.running, known.first, known.first_ready) == ("", first.id, True)
    await fleet.claim()
    (known,) = (await fleet.store.conditions({WEB1})).exclusive.values()
    assert (known.running, known.first_ready) == (first.id, False)


async def test_a_long_queue_of_higher_priorities_does_not_overtake(fleet: StoreFleet) -> None:
    await fleet.session()
    (running,) = await fleet.submit(plan(shared()))
    await fleet.claim()
    (alone,) = await fleet.submit(plan(exclusive()))
    for priority in (0, 7, 50):
        await fleet.submit(*[plan(shared(), priority=priority)] * 300)
    (early,) = await fleet.submit(plan(shared(key="late")))
    await done(fleet, running)
    assert await claimed(fleet) == [alone.id]
    assert await fleet.state(early) is State.QUEUED


@pytest.mark.parametrize("seed", range(3))
async def test_random_histories_run_nothing_beside_an_exclusive_task(fleet: StoreFleet, seed: int) -> None:
    rng = random.Random(seed)
    sessions = ["s0", "s1", "s2"]
    for name in sessions:
        await fleet.session(name)
    running: dict[str, tuple[str, Task]] = {}
    accepted: list[Task] = []
    started: set[str] = set()
    for step in range(250):
        what = rng.choice(["submit", "claim", "claim", "end", "end", "lose"])
        if what == "submit" and len(accepted) < 120:
            works: list[Work] = [push(f"/{step}"), shared(), exclusive(), exclusive()]
            work = rng.choice(works)
            accepted += await fleet.submit(plan(work, priority=rng.choice([0, 0, 9])))
        elif what == "claim":
            name = rng.choice(sessions)
            idle = not any(holder == name for holder, _ in running.values())
            for task in await fleet.claim(name, room=rng.randint(1, 3), idle=idle):
                running[task.id] = (name, task)
                if task.id in started:
                    continue
                started.add(task.id)
                earlier = [one for one in accepted if one.submission.seq < task.submission.seq]
                if task.submission.work.exclusive:
                    assert all(one.id in started for one in earlier), "those accepted before it come first"
                else:
                    assert all(one.id in started for one in earlier if one.submission.work.exclusive)
        elif what == "end" and running:
            task_id = rng.choice(sorted(running))
            name, task = running.pop(task_id)
            if task.submission.work.needs_commit:
                await fleet.grant(task, name)
            assert await fleet.report(task, Outcome.OK, name)
        elif what == "lose" and running and rng.random() < 0.3:
            name, _ = running[rng.choice(sorted(running))]
            await fleet.session(name, held=())
            running = {task_id: (by, task) for task_id, (by, task) in running.items() if by != name}
        alone = [task for _, task in running.values() if task.submission.work.exclusive]
        assert not alone or len(running) == 1, "nothing runs beside it"
    await fleet.whole()


async def test_on_the_schema_before_exclusive_tasks_are_refused(open_store: OpenStore, clock: ManualClock) -> None:
    async with open_store(clock) as store:
        store.schema.revision = OURS - 1
        fleet = StoreFleet(store, clock)
        with pytest.raises(OldServers):
            await fleet.submit(plan(exclusive()))
        assert await fleet.submit(plan(shared()))
