"""A worker settles the commit of a lost one; its attempt counts as any other."""

from __future__ import annotations

import pytest

from longshore.server.model.values import Outcome, Settlement, State
from longshore.server.store.commands import SettleTask
from longshore.server.store.transaction.limits import ConcurrencyLimits
from tests.conformance.conftest import OpenStore
from tests.support.stores.claims import paths, settling
from tests.support.stores.store import ManualClock, StoreFleet, plan, push


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome.SETTLED_REMOVED, State.QUEUED),
        (Outcome.SETTLED_LANDED, State.SUCCEEDED),
        (Outcome.SETTLED_NEITHER, State.QUEUED),
        (Outcome.HANDED_BACK, State.SETTLING),
        (Outcome.TRANSIENT, State.SETTLING),
    ],
)
async def test_another_worker_settles(fleet: StoreFleet, outcome: Outcome, state: State) -> None:
    task = await settling(fleet)
    (behind,) = await fleet.submit()
    await fleet.session()
    taken = await fleet.claim_one()
    assert (taken.id, taken.status.state, taken.status.attempt) == (task.id, State.SETTLING, 2)
    assert taken.status.grant is not None
    assert taken.status.grant.attempt == 1
    (attempt,) = await fleet.store.attempts(task.id, last=1)
    assert attempt.settling
    assert taken.status.alone
    assert not attempt.alone, "who settles has neighbours"
    assert await fleet.claim() == [], "one settles at a time"
    assert await fleet.report(taken, outcome)
    assert await fleet.state(task) is state
    assert await fleet.state(behind) is (State.QUEUED if state is State.SUCCEEDED else State.BLOCKED)
    assert (await fleet.store.attempts(task.id, last=1))[0].end == outcome.name


async def test_a_settling_attempt_takes_a_slot_of_the_instance_and_needs_no_free_one(
    open_store: OpenStore, clock: ManualClock
) -> None:
    """The task that was ready for that slot is not ready any more; each claim would look at it first, for nothing."""
    async with open_store(clock, limits=ConcurrencyLimits(instance=1, target=9)) as store:
        fleet = StoreFleet(store, clock)
        task = await settling(fleet)
        await fleet.submit(plan(push("/next"), priority=5))
        (other,) = await fleet.submit(plan(push("/other", "web2")))
        await fleet.session()
        assert [each.id for each in await fleet.claim()] == [task.id]
        fleet.changes.clear()
        assert [each.id for each in await fleet.claim()] == [other.id]
        assert await fleet.claim() == []
        assert not any(change.claimable for change in fleet.changes)
        await fleet.whole()


async def test_settling_that_failed_is_tried_again_later(fleet: StoreFleet) -> None:
    task = await settling(fleet)
    await fleet.session(lease=10_000.0)
    await fleet.report(await fleet.claim_one(), Outcome.TRANSIENT)
    assert await fleet.claim() == []
    waits = (await fleet.now(task)).status.due_at
    assert waits is not None
    assert (await fleet.tick()).next_at == waits
    fleet.clock.advance(waits - fleet.clock.now())
    fleet.changes.clear()
    await fleet.tick()
    assert fleet.changes[-1].claimable
    assert (await fleet.claim_one()).status.attempt == 3


async def test_only_sessions_that_can_settle_get_settling_tasks(fleet: StoreFleet) -> None:
    task = await settling(fleet, work="report")
    await fleet.session("elsewhere", targets={"other": ""}, kinds={"report": True})
    await fleet.session("cannot", kinds={"report": False, "file_push": True})
    await fleet.session("stranger", kinds={"file_push": True})
    for session in ("elsewhere", "cannot", "stranger"):
        assert await fleet.claim(session) == []
    await fleet.session("can", kinds={"report": True})
    assert [each.id for each in await fleet.claim("can")] == [task.id]


async def test_the_granted_session_may_settle_too_with_a_new_attempt(fleet: StoreFleet) -> None:
    task = await settling(fleet)
    await fleet.session("doomed")
    (taken,) = await fleet.claim("doomed")
    assert (taken.id, taken.status.attempt) == (task.id, 2)
    assert await fleet.report(taken, Outcome.OK, "doomed")
    assert await fleet.state(task) is State.SETTLING, "a settling attempt delivers nothing: it has said nothing"


async def test_the_granted_worker_reconnects_and_reports_the_outcome(fleet: StoreFleet) -> None:
    task = await settling(fleet)
    await fleet.session()
    settler = await fleet.claim_one()
    await fleet.session("doomed", held=[(task.id, 1)])
    assert await fleet.report(task, Outcome.OK, "doomed", attempt=1)
    assert await fleet.state(task) is State.SUCCEEDED
    assert not await fleet.report(settler, Outcome.SETTLED_NEITHER)
    ends = [attempt.end for attempt in await fleet.store.attempts(task.id)]
    assert ends == ["OK", "OVERTAKEN"]


async def test_settled_by_hand_while_a_worker_settles(fleet: StoreFleet) -> None:
    task = await settling(fleet)
    await fleet.session()
    settler = await fleet.claim_one()
    await fleet.run(SettleTask(task_id=task.id, settlement=Settlement.LANDED))
    assert not await fleet.report(settler, Outcome.SETTLED_REMOVED)
    assert await fleet.state(task) is State.SUCCEEDED
    assert fleet.changes[-1].tasks[-1].holder == ("session-1", 2)


async def test_settling_waits_for_no_room_and_counts(narrow: StoreFleet) -> None:
    await settling(narrow)
    await narrow.submit(*(plan(push(f"/{number}")) for number in range(4)))
    await narrow.session("busy", kinds={"file_push": True})
    await narrow.session("other")
    full = await narrow.claim("busy", room=3)
    assert [task.status.state.name for task in full] == ["SETTLING", "RUNNING"]
    assert await narrow.claim("busy", room=3) == [], "two run"
    assert await narrow.report(full[0], Outcome.HANDED_BACK, "busy")
    assert paths(await narrow.claim("busy", room=1)) == ["/etc/motd"]
    await narrow.deliver(full[1], "busy")
    assert paths(await narrow.claim("busy", room=3)) == ["/1"]


async def test_settling_too_keeps_to_the_share(fleet: StoreFleet) -> None:
    task = await settling(fleet)
    await fleet.session(targets={"default": "", "other": ""})
    claims = await fleet.offers(fleet.offer(room=1, idle=False, kept_for=("other",)))
    assert claims.taken == ()
    claims = await fleet.offers(fleet.offer(room=2, idle=False, kept_for=("other",)))
    assert [each.id for _, each in claims.taken] == [task.id]
