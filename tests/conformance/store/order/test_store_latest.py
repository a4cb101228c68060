"""The latest wins (P18): what was overtaken ends, says by which task, and is never granted afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from longshore.server.model.errors import OldServers
from longshore.server.model.task import FilePush
from longshore.server.model.values import Outcome, State
from longshore.server.store.commands import StepPlan, SubmitPlan
from longshore.server.store.tables.schema_version import OURS
from longshore.server.store.transaction import new_tasks
from tests.conformance.conftest import OpenStore
from tests.support.stores.store import ManualClock, StoreFleet, job, plan, push, submit


def latest(path: str = "/etc/motd", **more: Any) -> FilePush:
    return push(path, latest_wins=True, **more)


async def test_waiting_ones_end_and_say_by_which_task(fleet: StoreFleet) -> None:
    queued, blocked, later = await fleet.submit(plan(push()), plan(push()), plan(push(), not_before=60.0))
    (elsewhere,) = await fleet.submit(plan(push("/etc/other")))
    (others,) = await fleet.submit(plan(push()), principal="bob")
    (new,) = await fleet.submit(plan(latest()))
    for task in (queued, blocked, later):
        now = await fleet.now(task)
        assert (now.status.state, now.status.superseded_by) == (State.CANCELLED, new.id)
        assert now.status.error is not None
        assert (now.status.error.reason, new.id in now.status.error.message) == ("SUPERSEDED", True)
        history = await fleet.store.history(task.id, after=0)
        assert history[-1].status.superseded_by == new.id, "the log of events says by which task too"
    assert await fleet.states(elsewhere, others, new) == ["QUEUED", "QUEUED", "BLOCKED"], "bob's is his own"
    await fleet.cancel(others)
    assert await fleet.state(new) is State.QUEUED


async def test_a_running_one_is_asked_to_stop_and_gets_no_grant(fleet: StoreFleet) -> None:
    await fleet.session()
    (first,) = await fleet.submit(plan(push()))
    (taken,) = await fleet.claim()
    (new,) = await fleet.submit(plan(latest()))
    assert await fleet.states(first, new) == ["CANCELLING", "BLOCKED"]
    answer = await fleet.grant(taken)
    assert (answer.granted, answer.reason) == (False, "CANCELLED")
    assert await fleet.report(taken, Outcome.STOPPED)
    ended = await fleet.now(first)
    assert (ended.status.state, ended.status.superseded_by) == (State.CANCELLED, new.id)
    (next_one,) = await fleet.claim()
    assert next_one.id == new.id


async def test_a_granted_commit_ends_as_it_does_and_the_new_task_follows(fleet: StoreFleet) -> None:
    await fleet.session()
    (first,) = await fleet.submit(plan(push()))
    (taken,) = await fleet.claim()
    assert (await fleet.grant(taken)).granted
    (new,) = await fleet.submit(plan(latest()))
    asked = await fleet.now(first)
    assert (asked.status.state, asked.status.cancel_requested) == (State.COMMITTING, True)
    await fleet.session("session-2", dead_sessions=["session-1"])
    assert await fleet.state(first) is State.SETTLING
    (settling,) = await fleet.claim("session-2")
    await fleet.report(settling, Outcome.SETTLED_REMOVED, "session-2")
    assert await fleet.states(first, new) == ["CANCELLED", "QUEUED"]
    assert (await fleet.now(first)).status.superseded_by == new.id


async def test_whichever_is_committed_first_counts_in_one_transaction(fleet: StoreFleet) -> None:
    await fleet.session()
    (first,) = await fleet.submit(plan(push()))
    (taken,) = await fleet.claim()
    new = submit(plans=(plan(latest()),), request_id="new")
    ((granted,), (made,)) = await fleet.together(fleet.granting(taken), new)
    assert granted.granted
    assert await fleet.states(first, made) == ["COMMITTING", "BLOCKED"]
    await fleet.report(taken, Outcome.OK)
    ended = await fleet.now(first)
    assert (ended.status.state, ended.status.superseded_by) == (State.SUCCEEDED, ""), "it was delivered"


async def test_a_chain_of_submissions_in_one_transaction_leaves_the_last(fleet: StoreFleet) -> None:
    commands = [submit(plans=(plan(latest()),), request_id=f"r{number}") for number in range(5)]
    made = [tasks[0] for tasks in await fleet.together(*commands)]
    assert await fleet.states(*made) == ["CANCELLED"] * 4 + ["QUEUED"]
    by = [(await fleet.now(task)).status.superseded_by for task in made]
    assert by == [task.id for task in made[1:]] + [""]


async def test_jobs_of_a_key_are_overtaken_and_others_are_not(fleet: StoreFleet) -> None:
    await fleet.session()
    (running,) = await fleet.submit(plan(job(key="a")))
    await fleet.claim()
    waiting, other, free = await fleet.submit(plan(job(key="a")), plan(job(key="b")), plan(job()))
    (new,) = await fleet.submit(plan(job(key="a", latest_wins=True)))
    assert await fleet.states(running, waiting, other, free, new) == [
        "CANCELLING", "CANCELLED", "QUEUED", "QUEUED", "BLOCKED",
    ]  # fmt: skip
    await fleet.report(await fleet.now(running), Outcome.OK)
    assert await fleet.states(running, new) == ["SUCCEEDED", "QUEUED"], "without a commit it may end well"


async def test_a_task_does_not_overtake_what_it_comes_after(fleet: StoreFleet) -> None:
    await fleet.session()
    first, second = await fleet.submit(plan(push()), plan(push()))
    (new,) = await fleet.submit(plan(latest(), after=(first.id,)))
    assert await fleet.states(first, second, new) == ["QUEUED", "CANCELLED", "BLOCKED"]
    (taken,) = await fleet.claim()
    await fleet.deliver(taken)
    assert await fleet.state(new) is State.QUEUED


async def test_a_task_does_not_overtake_what_it_comes_after_by_way_of_others(fleet: StoreFleet) -> None:
    await fleet.session()
    first, second = await fleet.submit(plan(push()), plan(push()))
    (reload,) = await fleet.submit(plan(job(), after=(first.id,)))
    (then,) = await fleet.submit(plan(job(), after=(reload.id,)))
    (new,) = await fleet.submit(plan(latest(), after=(then.id,)))
    assert await fleet.states(first, second, reload, then, new) == [
        "QUEUED", "CANCELLED", "BLOCKED", "BLOCKED", "BLOCKED",
    ]  # fmt: skip
    (other,) = await fleet.submit(plan(latest()))
    assert await fleet.states(first, reload, then, new, other) == ["CANCELLED"] * 4 + ["QUEUED"]


async def test_the_steps_of_a_plan_overtake_none_that_they_come_after(fleet: StoreFleet) -> None:
    (waiting,) = await fleet.submit(plan(push()))
    steps = [StepPlan(plan(latest())), StepPlan(plan(job()), (0,)), StepPlan(plan(latest()), (1,))]
    made = await fleet.run(
        SubmitPlan(principal="alice", request_id="p", fingerprint="f", steps=tuple(steps), bounds=submit().bounds)
    )
    assert await fleet.states(waiting, *made) == ["CANCELLED", "QUEUED", "BLOCKED", "BLOCKED"]


async def test_the_walk_to_what_a_task_comes_after_is_bounded(
    fleet: StoreFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_tasks, "_FARTHEST", 3)
    first, second = await fleet.submit(plan(push()), plan(push()))
    before = first
    for _ in range(4):
        (before,) = await fleet.submit(plan(job(), after=(before.id,)))
    (new,) = await fleet.submit(plan(latest(), after=(before.id,)))
    assert await fleet.states(first, second, new) == ["QUEUED", "CANCELLED", "BLOCKED"], "it keeps its turn"


async def test_a_task_that_fails_at_once_overtakes_none(fleet: StoreFleet) -> None:
    await fleet.session()
    (before,) = await fleet.submit(plan(job()))
    upload = await fleet.open_upload(tasks=1, terms=plan(after=(before.id,)).terms)
    (waiting,) = await fleet.submit(plan(push()))
    await fleet.cancel(before)
    (new,) = (await fleet.finish(upload, plan(latest(), after=(before.id,)))).tasks
    ended = await fleet.now(new)
    assert ended.status.error is not None
    assert (ended.status.state, ended.status.error.reason) == (State.CANCELLED, "DEPENDENCY_FAILED")
    assert await fleet.state(waiting) is State.QUEUED


async def test_a_thousand_waiting_ones_end_in_one_transaction(fleet: StoreFleet) -> None:
    waiting = await fleet.submit(*[plan(push())] * 1000)
    before = len(fleet.changes)
    (new,) = await fleet.submit(plan(latest()))
    assert len(fleet.changes) == before + 1, "one commit"
    assert {(await fleet.now(task)).status.superseded_by for task in waiting[::100]} == {new.id}
    assert await fleet.state(new) is State.QUEUED
    assert await fleet.submit(plan(latest()))
    await fleet.whole()


async def test_on_the_schema_before_it_is_refused(open_store: OpenStore, clock: ManualClock) -> None:
    async with open_store(clock) as store:
        store.schema.revision = OURS - 1
        fleet = StoreFleet(store, clock)
        with pytest.raises(OldServers):
            await fleet.submit(plan(latest()))
        assert await fleet.submit(plan(push()))
