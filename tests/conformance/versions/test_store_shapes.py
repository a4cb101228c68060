"""The store answers with the values that it has stored, whichever statement wrote them: for each step of a task, alone
and with the next one in the same transaction."""

from __future__ import annotations

from typing import Any

import pytest

from longshore.server.model.task import AnyValue, FilePush, Job, Task
from longshore.server.model.values import DeliveryMethod, Outcome, State, WaitReason
from longshore.server.store.commands import CancelTask, ClaimTasks, SubmitTasks
from tests.support.stores.store import StoreFleet, job, plan, push

WORKS = [
    pytest.param(push("/a"), id="push"),
    pytest.param(job(), id="job"),
    pytest.param(Job("report", None), id="job without arguments"),
    pytest.param(job(target="default", instance="web1"), id="job in an instance"),
]


def made_of(work: FilePush | Job, **more: Any) -> SubmitTasks:
    return SubmitTasks(principal="alice", request_id="r", fingerprint="f", plans=(plan(work, **more),))


async def check(fleet: StoreFleet, *said: Task) -> None:
    """The store's answers and news, and its rows and history, tell the same."""
    news = {(each.task.id, each.task.status.revision): each.task for one in fleet.changes for each in one.tasks}
    for task in said:
        assert await fleet.now(task) == task
        history = await fleet.store.history(task.id, after=0)
        assert [one.status.revision for one in history] == list(range(1, task.status.revision + 1))
        assert [news[task.id, one.status.revision] for one in history] == list(history)
        assert history[-1] == task
    await fleet.whole()


@pytest.mark.parametrize("together", [True, False], ids=["in one transaction", "one by one"])
@pytest.mark.parametrize("work", WORKS)
async def test_each_stored_step_equals_the_told_one(fleet: StoreFleet, work: FilePush | Job, together: bool) -> None:
    await fleet.session()
    command = made_of(work, labels={"a": "b"}, priority=3, stall_timeout=None if together else 7.5)
    if together:
        (made, claims) = await fleet.together(command, ClaimTasks(offers=(fleet.offer(),)))
        ((_, task),) = claims.taken
        assert made == (task,)
    else:
        (queued,) = await fleet.run(command)
        assert queued.status.state is State.QUEUED
        await check(fleet, queued)
        task = await fleet.claim_one()
    assert (task.status.state, task.status.revision) == (State.RUNNING, 2)
    await check(fleet, task)
    if isinstance(work, FilePush):
        assert (await fleet.grant(task)).granted
        await check(fleet, await fleet.now(task))
    assert await fleet.report(task, Outcome.OK, method=DeliveryMethod.DIRECTORY)
    done = await fleet.now(task)
    assert done.status.state is State.SUCCEEDED
    await check(fleet, done)
    ended = await fleet.store.attempts(task.id)
    assert [(each.number, each.end, each.error) for each in ended] == [(1, "OK", None)]


async def test_a_result_and_an_error_before_it_are_stored(fleet: StoreFleet) -> None:
    await fleet.session()
    await fleet.submit(plan(job()))
    task = await fleet.claim_one()
    assert await fleet.report(task, Outcome.NOT_READY, wait_reason=WaitReason.BACK_OFF)
    fleet.clock.advance(600.0)
    await fleet.tick()
    again = await fleet.claim_one()
    await check(fleet, again)
    assert await fleet.report(again, Outcome.OK, result=AnyValue("type.example/R", b"\0\xff"))
    await check(fleet, await fleet.now(task))


async def test_a_task_that_is_made_paused_or_cancelled_in_its_own_transaction(fleet: StoreFleet) -> None:
    await fleet.session()
    ((one,),) = await fleet.together(made_of(job(), not_before=9.0))
    await check(fleet, one)
    (cancelled,) = await fleet.together(CancelTask(task_id=one.id, creator=None, reason="enough"))
    await check(fleet, cancelled)


async def test_new_tasks_are_claimed_by_priority_among_the_stored_ones(fleet: StoreFleet) -> None:
    """With some of the same instance, whose room they share."""
    await fleet.session()
    await fleet.submit(*(plan(push(f"/stored/{n}"), priority=n) for n in (1, 5)))
    command = SubmitTasks(
        principal="alice",
        request_id="r",
        fingerprint="f",
        plans=tuple(plan(push(f"/new/{n}"), priority=n) for n in (2, 7, 3)),
    )
    (made, claims) = await fleet.together(command, ClaimTasks(offers=(fleet.offer(room=3),)))
    assert [task.submission.terms.priority for _, task in claims.taken] == [7, 5, 3]
    await check(fleet, *made)
    assert [task.submission.terms.priority for task in await fleet.claim(room=3)] == [2]  # four at once in an instance
    await fleet.deliver(claims.taken[0][1])
    assert [task.submission.terms.priority for task in await fleet.claim(room=3)] == [1]


async def test_the_next_for_a_destination_may_be_as_new_as_the_end_of_the_one_before(fleet: StoreFleet) -> None:
    await fleet.session()
    (first,) = await fleet.submit(plan(push("/a")))
    cancel = CancelTask(task_id=first.id, creator=None, reason="enough")
    follower = SubmitTasks(principal="alice", request_id="r", fingerprint="f", plans=(plan(push("/a")),) * 2)
    (made, _, claims) = await fleet.together(follower, cancel, ClaimTasks(offers=(fleet.offer(room=3),)))
    assert [task.id for _, task in claims.taken] == [made[0].id]
    assert await fleet.states(first, *made) == ["CANCELLED", "RUNNING", "BLOCKED"]
    await check(fleet, *made)
