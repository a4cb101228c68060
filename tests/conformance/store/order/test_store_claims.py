"""Claims: each session gets the tasks that it serves, by priority and acceptance (P9)."""

from __future__ import annotations

from longshore.server.model.values import State
from longshore.server.store.commands import ClaimTasks, Disconnect, DrainSession, Offer
from tests.support.stores.claims import paths
from tests.support.stores.store import StoreFleet, job, plan, push, submit


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
