"""Claims: who gets what, and in which order; limits, tasks that run alone, settling (P9, P10)."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import pytest

from longshore.server.model.events import Policy
from longshore.server.model.task import Task
from longshore.server.model.values import Outcome, Settlement, State
from longshore.server.store.commands import ClaimTasks, Disconnect, DrainSession, Offer, ReapSessions, SettleTask
from longshore.server.store.transaction.limits import ConcurrencyLimits
from tests.conformance.conftest import OpenStore
from tests.support.stores.store import LEASE, ManualClock, StoreFleet, job, plan, push, submit


@pytest.fixture
async def narrow(open_store: OpenStore, clock: ManualClock) -> AsyncIterator[StoreFleet]:
    """Two attempts an instance, three a target."""
    async with open_store(clock, limits=ConcurrencyLimits(instance=2, target=3)) as store:
        fleet = StoreFleet(store, clock)
        yield fleet
        await fleet.whole()


def paths(tasks: list[Task]) -> list[str]:
    return [task.submission.work.destination.path for task in tasks]  # type: ignore[union-attr]


async def test_a_claim_is_an_attempt(fleet: StoreFleet) -> None:
    session = await fleet.session()
    (task,) = await fleet.submit()
    taken = await fleet.claim_one()
    assert taken.id == task.id
    status = taken.status
    assert (status.state, status.attempt, status.session_id) == (State.RUNNING, 1, session.id)
    assert (status.worker, status.started_at) == (session.worker, fleet.clock.now())
    assert status.deadline_ticks == fleet.clock.ticks() + task.submission.terms.run_timeout
    assert await fleet.now(task) == taken
    assert (await fleet.store.sessions())[0].held == ((task.id, 1),)
    assert await fleet.claim() == []


async def test_by_priority_then_by_acceptance(fleet: StoreFleet) -> None:
    await fleet.session()
    for path, priority in (("/a", 0), ("/b", 5), ("/c", -5), ("/d", 5), ("/e", 0)):
        await fleet.submit(plan(push(path, path[1:]), priority=priority))
    assert paths(await fleet.claim(room=3)) == ["/b", "/d", "/a"]
    assert paths(await fleet.claim(room=3)) == ["/e", "/c"]


async def test_priority_never_overtakes_at_one_destination(fleet: StoreFleet) -> None:
    await fleet.session()
    first, _ = await fleet.submit(plan(priority=-100), plan(priority=100))
    assert [task.id for task in await fleet.claim(room=2)] == [first.id]


async def test_a_session_gets_only_targets_and_kinds_that_it_serves(fleet: StoreFleet) -> None:
    await fleet.submit(
        plan(push("/here")),
        plan(push("/there", target="other")),
        plan(job("report")),
        plan(job("report", target="other")),
        plan(job("unknown")),
    )
    await fleet.session("pusher", targets={"default": ""}, kinds={"file_push": True})
    await fleet.session("reporter", targets={}, kinds={"report": False})
    await fleet.session("useless", targets={}, kinds={"file_push": True})
    await fleet.session("everything", targets={"default": "", "other": ""}, kinds={"file_push": True, "report": True})
    assert paths(await fleet.claim("pusher", room=9)) == ["/here"]
    assert [task.submission.work for task in await fleet.claim("reporter", room=9)] == [job("report")]
    assert await fleet.claim("useless", room=9) == []
    rest = [task.submission.work for task in await fleet.claim("everything", room=9)]
    assert rest == [push("/there", target="other"), job("report", target="other")]


async def test_work_is_spread_over_the_sessions(fleet: StoreFleet) -> None:
    await fleet.session("one")
    await fleet.session("two")
    tasks = await fleet.submit(*(plan(push(f"/{number}", f"i{number}")) for number in range(6)))
    claims = await fleet.offers(fleet.offer("one", room=4), fleet.offer("two", room=4))
    assert [task.id for _, task in claims.taken] == [task.id for task in tasks]
    takers = [session for session, _ in claims.taken]
    assert (takers.count("one"), takers.count("two")) == (3, 3)


async def test_offers_that_take_nothing(fleet: StoreFleet) -> None:
    await fleet.session("draining")
    await fleet.session("reconnected")
    await fleet.session("gone")
    old = fleet.offer("reconnected")
    await fleet.session("reconnected")
    await fleet.run(DrainSession(session_id="draining"))
    await fleet.run(Disconnect(session_id="gone", epoch=fleet.epoch("gone"), goodbye=True))
    await fleet.submit()
    offers = (
        fleet.offer("draining"),
        old,
        fleet.offer("gone"),
        Offer(session_id="unknown", epoch=1, room=1, idle=True),
        fleet.offer("reconnected", room=0),
    )
    assert (await fleet.offers(*offers)).taken == ()
    assert len(await fleet.claim("reconnected")) == 1


async def test_insert_and_claim_share_a_transaction(fleet: StoreFleet) -> None:
    await fleet.session()
    fleet.changes.clear()
    claims, (submitted,) = await fleet.together(ClaimTasks(offers=(fleet.offer(),)), submit())
    ((_, taken),) = claims.taken
    assert taken == submitted
    assert taken.status.state is State.RUNNING
    (changes,) = fleet.changes
    assert [change.task.status.revision for change in changes.tasks] == [1, 2]


async def test_two_claims_in_one_transaction_take_different_tasks(fleet: StoreFleet) -> None:
    await fleet.session("one")
    await fleet.session("two")
    await fleet.submit(plan(), plan(push("/b")))
    first, second = await fleet.together(
        ClaimTasks(offers=(fleet.offer("one"),)), ClaimTasks(offers=(fleet.offer("two"),))
    )
    assert {task.id for _, task in first.taken} != {task.id for _, task in second.taken}
    assert len(first.taken) == len(second.taken) == 1


# Limits ---------------------------------------------------------------------------------------------------------------


async def test_an_instance_runs_no_more_than_its_limit(narrow: StoreFleet) -> None:
    await narrow.session()
    await narrow.submit(*(plan(push(f"/{number}")) for number in range(5)))
    first = await narrow.claim(room=9)
    assert paths(first) == ["/0", "/1"]
    assert await narrow.claim(room=9) == []
    narrow.changes.clear()
    await narrow.deliver(first[0])
    assert narrow.changes[-1].claimable
    assert paths(await narrow.claim(room=9)) == ["/2"]


async def test_the_default_project_is_one_instance_named_or_not(narrow: StoreFleet) -> None:
    await narrow.session()
    await narrow.submit(*(plan(push(f"/{number}", project="default" if number % 2 else "")) for number in range(4)))
    assert paths(await narrow.claim(room=9)) == ["/0", "/1"]


async def test_a_saturated_instance_holds_up_no_other(narrow: StoreFleet) -> None:
    await narrow.session()
    await narrow.submit(*(plan(push(f"/{number}"), priority=100) for number in range(50)))
    (other,) = await narrow.submit(plan(push("/x", "web2"), priority=-100))
    taken = await narrow.claim(room=9)
    assert paths(taken) == ["/0", "/1", "/x"]
    assert taken[-1].id == other.id


async def test_a_target_runs_no_more_than_its_limit_and_holds_up_no_other(narrow: StoreFleet) -> None:
    await narrow.session(targets={"default": "", "other": ""})
    await narrow.submit(*(plan(push(f"/{number}", f"i{number}"), priority=9) for number in range(9)))
    await narrow.submit(plan(push("/x", target="other")))
    taken = await narrow.claim(room=9)
    assert paths(taken) == ["/0", "/1", "/2", "/x"]
    assert await narrow.claim(room=9) == []
    narrow.changes.clear()
    await narrow.report(taken[0], Outcome.HANDED_BACK)
    assert narrow.changes[-1].claimable
    assert paths(await narrow.claim(room=9)) == ["/0"]


async def test_an_end_on_a_full_target_makes_the_next_task_claimable(narrow: StoreFleet) -> None:
    await narrow.session()
    await narrow.submit(*(plan(push(f"/{number}", f"i{number}")) for number in range(4)))
    taken = await narrow.claim(room=9)
    assert paths(taken) == ["/0", "/1", "/2"]
    narrow.changes.clear()
    await narrow.deliver(taken[0])
    assert narrow.changes[-1].claimable
    assert paths(await narrow.claim(room=9)) == ["/3"]


async def test_jobs_of_an_instance_share_its_limit_and_jobs_without_one_have_none(narrow: StoreFleet) -> None:
    await narrow.session()
    await narrow.submit(
        plan(push("/a")),
        plan(job(target="default", instance="web1")),
        plan(job(target="default", instance="web1")),
        *(plan(job()) for _ in range(5)),
    )
    taken = await narrow.claim(room=20)
    assert [task.submission.work.instance for task in taken] == ["web1", "web1", "", "", "", "", ""]


async def test_a_higher_priority_takes_the_slot_of_a_ready_one(narrow: StoreFleet) -> None:
    await narrow.session()
    await narrow.submit(*(plan(push(f"/{number}")) for number in range(4)))
    await narrow.submit(plan(push("/urgent"), priority=50))
    assert paths(await narrow.claim(room=9)) == ["/urgent", "/0"]


async def test_a_cancelled_ready_task_makes_room_for_the_next(narrow: StoreFleet) -> None:
    await narrow.session()
    tasks = await narrow.submit(*(plan(push(f"/{number}")) for number in range(4)))
    await narrow.cancel(tasks[0])
    assert paths(await narrow.claim(room=9)) == ["/1", "/2"]


async def test_every_task_runs_in_the_end(narrow: StoreFleet) -> None:
    await narrow.session()
    tasks = await narrow.submit(*(plan(push(f"/{number}", f"i{number % 3}")) for number in range(30)))
    ended = 0
    while taken := await narrow.claim(room=2):
        assert len(taken) <= 2
        for task in taken:
            await narrow.deliver(task)
            ended += 1
    assert ended == 30
    assert set(await narrow.states(*tasks)) == {"SUCCEEDED"}


# Alone ----------------------------------------------------------------------------------------------------------------


async def crash(fleet: StoreFleet, session: str) -> None:
    """The lease of `session` ends; the others are renewed by connecting again."""
    fleet.clock.advance(LEASE + 1)
    assert session in await fleet.run(ReapSessions())


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


# Settling -------------------------------------------------------------------------------------------------------------


async def settling(fleet: StoreFleet, session: str = "doomed", *, work: str = "file_push") -> Task:
    """A task whose worker was lost after its grant."""
    await fleet.session(session)
    await fleet.submit(plan(push() if work == "file_push" else job(work, target="default")))
    task = (await fleet.claim(session))[0]
    assert (await fleet.grant(task, session)).granted
    await crash(fleet, session)
    assert await fleet.state(task) is State.SETTLING
    return task


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


async def test_tasks_without_a_taker_block_no_other_task(narrow: StoreFleet) -> None:
    """Two sorts of tasks wait in one instance: of a kind that no worker has, and for an idle worker."""
    await narrow.submit(*(plan(job("unknown", target="default", instance="web1"), priority=9) for _ in range(5)))
    await narrow.session("doomed")
    crashed = await narrow.submit(plan(push("/a"), priority=8), plan(push("/b"), priority=8))
    await narrow.claim("doomed", room=2)
    await crash(narrow, "doomed")
    await narrow.submit(*(plan(push(f"/{number}")) for number in range(3)))
    await narrow.session()
    assert paths(await narrow.claim(room=9, idle=False)) == ["/0", "/1"]
    assert await narrow.claim(room=9, idle=False) == [], "two run"
    assert await narrow.states(*crashed) == ["QUEUED"] * 2


async def test_many_kinds_share_an_instance_without_holding_up_others(narrow: StoreFleet) -> None:
    await narrow.session(kinds={"file_push": True, "a": False, "b": False, "c": False})
    for kind in ("a", "b", "c"):
        await narrow.submit(*(plan(job(kind, target="default", instance="web1"), priority=9) for _ in range(3)))
    (other,) = await narrow.submit(plan(push("/x", "web2")))
    taken = []
    while more := await narrow.claim(room=2):
        taken += more
    assert [task.submission.kind for task in taken] == ["a", "a", "file_push"]
    assert taken[-1].id == other.id


# Shares of targets ----------------------------------------------------------------------------------------------------


async def several_targets(fleet: StoreFleet, *sessions: str) -> None:
    """Ten tasks for each of three targets, those of the first accepted first, and sessions that serve all."""
    for target in ("a", "b", "c"):
        await fleet.submit(*(plan(push(f"/{number}", f"i{number % 5}", target=target)) for number in range(10)))
    for session in sessions:
        await fleet.session(session, targets={"a": "", "b": "", "c": ""})


def count_by_target(tasks: list[Task]) -> dict[str, int]:
    return dict(Counter(task.submission.target for task in tasks))


async def test_a_session_takes_no_more_of_a_target_than_its_share(fleet: StoreFleet) -> None:
    """P10: a daemon that hangs never takes all of a worker."""
    await several_targets(fleet, "s")
    claims = await fleet.offers(fleet.offer("s", room=8, kept_for=("a", "b", "c")))
    assert count_by_target([task for _, task in claims.taken]) == {"a": 6, "b": 1, "c": 1}


async def test_room_is_kept_for_a_target_that_has_nothing_yet(fleet: StoreFleet) -> None:
    await several_targets(fleet, "s", "t")
    claims = await fleet.offers(fleet.offer("s", room=2, idle=False, kept_for=("c",)))
    assert count_by_target([task for _, task in claims.taken]) == {"a": 1, "c": 1}
    claims = await fleet.offers(fleet.offer("s", room=1, idle=False, kept_for=("unknown",)))
    assert claims.taken == ()
    # A worker with a share left gets the tasks that another one is refused.
    claims = await fleet.offers(
        fleet.offer("s", room=3, idle=False, kept_for=("x", "y", "z")), fleet.offer("t", room=1, kept_for=("a",))
    )
    assert [(session, task.submission.target) for session, task in claims.taken] == [("t", "a")]


async def test_a_task_without_a_target_uses_any_free_credit(fleet: StoreFleet) -> None:
    await fleet.submit(*(plan(job("report")) for _ in range(3)))
    await fleet.session(targets={"a": "", "b": ""})
    claims = await fleet.offers(fleet.offer(room=3, kept_for=("a", "b")))
    assert len(claims.taken) == 3


async def test_settling_too_keeps_to_the_share(fleet: StoreFleet) -> None:
    task = await settling(fleet)
    await fleet.session(targets={"default": "", "other": ""})
    claims = await fleet.offers(fleet.offer(room=1, idle=False, kept_for=("other",)))
    assert claims.taken == ()
    claims = await fleet.offers(fleet.offer(room=2, idle=False, kept_for=("other",)))
    assert [each.id for _, each in claims.taken] == [task.id]
