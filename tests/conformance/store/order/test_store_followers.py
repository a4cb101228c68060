"""Tasks that come after other tasks: they start when these have succeeded, and otherwise touch nothing (P17)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from longshore.server.model.errors import DependencyFailed, NotFound
from longshore.server.model.task import Failure, Task
from longshore.server.model.values import Outcome, State, WaitReason
from longshore.server.store.commands import PurgeTasks, ReleaseFollowers, RetryTask, SubmitTasks
from longshore.server.store.commands.tasks import Bounds
from longshore.server.store.transaction import followers
from tests.conformance.conftest import OpenStore
from tests.support.stores.store import ManualClock, StoreFleet, job, plan, push
from tests.support.waiting import until

_NUMBERS = itertools.count()


async def after(fleet: StoreFleet, *tasks: Task, count: int = 1, work: object = None, **terms: object) -> list[Task]:
    """Tasks that come after `tasks`, each in a place of its own unless `work` says otherwise."""
    wanted = [
        plan(work or push(f"/after/{next(_NUMBERS)}"), after=tuple(task.id for task in tasks), **terms)  # type: ignore[arg-type]
        for _ in range(count)
    ]
    return list(await fleet.submit(*wanted))


async def fail(fleet: StoreFleet, task: Task) -> None:
    assert await fleet.report(task, Outcome.PERMANENT, error=Failure("NO_SPACE", "full"))


async def reasons(fleet: StoreFleet, tasks: Sequence[Task]) -> list[tuple[str, str]]:
    found = [(await fleet.now(task)).status for task in tasks]
    return [(status.state.name, "" if status.error is None else status.error.reason) for status in found]


async def test_a_task_starts_after_those_that_it_names_have_succeeded(fleet: StoreFleet) -> None:
    await fleet.session()
    one, two = await fleet.submit(plan(push("/one")), plan(job()))
    (third,) = await after(fleet, one, two)
    assert (third.status.state, third.status.wait_reason, third.status.head) == (State.BLOCKED, WaitReason.AFTER, False)
    first, second = await fleet.claim(room=9)
    await fleet.deliver(first)
    assert await fleet.claim(room=9) == []
    assert await fleet.store.unmet([third.id]) == {third.id: two.id}
    assert await fleet.report(second, Outcome.OK)
    assert await fleet.store.unmet([third.id]) == {}
    (taken,) = await fleet.claim(room=9)
    assert (taken.id, taken.status.attempt) == (third.id, 1)
    history = [task.status.state.name for task in await fleet.store.history(third.id, after=0)]
    assert history == ["BLOCKED", "QUEUED", "RUNNING"]


@pytest.mark.parametrize("work", [push("/a"), job(), job(target="default", instance="web1")])
async def test_a_failed_task_cancels_what_hangs_on_it_and_nothing_else(fleet: StoreFleet, work: object) -> None:
    await fleet.session()
    bad, good = await fleet.submit(plan(push("/bad")), plan(push("/good")))
    (child,) = await after(fleet, bad, work=work)
    (other,) = await after(fleet, good)
    (grandchild,) = await after(fleet, child)
    (patient,) = await after(fleet, bad, after_any_end=True)
    (both,) = await after(fleet, grandchild, good)
    first, second = await fleet.claim(room=9)
    await fail(fleet, first)
    assert await reasons(fleet, [child, grandchild, both]) == [("CANCELLED", "DEPENDENCY_FAILED")] * 3
    assert await fleet.states(good, other, patient) == ["RUNNING", "BLOCKED", "QUEUED"]
    await fleet.deliver(second)
    assert {task.id for task in await fleet.claim(room=9)} == {other.id, patient.id}
    for task in (child, grandchild, both):
        assert (await fleet.now(task)).status.attempt == 0, "it has touched nothing"
        assert await fleet.store.attempts(task.id) == []


@pytest.mark.parametrize("how", ["cancel", "expire"])
async def test_a_task_that_waits_is_cancelled_and_expires_like_any_other(fleet: StoreFleet, how: str) -> None:
    (one,) = await fleet.submit(plan(push("/one")))
    (two,) = await after(fleet, one, expire_after=50.0)
    (three,) = await after(fleet, two)
    if how == "cancel":
        await fleet.cancel(two)
    else:
        fleet.clock.advance(60.0)
        await fleet.tick()
    ended = "CANCELLED" if how == "cancel" else "EXPIRED"
    assert await reasons(fleet, [one, two, three]) == [
        ("QUEUED", ""), (ended, ""), ("CANCELLED", "DEPENDENCY_FAILED")
    ]  # fmt: skip
    await fleet.cancel(one)
    assert await fleet.states(one, two) == ["CANCELLED", ended]


async def test_it_keeps_its_place_at_its_destination(fleet: StoreFleet) -> None:
    await fleet.session()
    (first,) = await fleet.submit(plan(push("/first")))
    (second,) = await after(fleet, first, work=push("/same"))
    (third,) = await fleet.submit(plan(push("/same")))
    (fourth,) = await fleet.submit(plan(push("/same")))
    assert (third.status.state, third.status.wait_reason) == (State.BLOCKED, WaitReason.EARLIER_TASK)
    key = push("/same").destination_key
    assert await fleet.store.blocking([key]) == {key: second.id}
    (taken,) = await fleet.claim(room=9)
    assert taken.id == first.id
    await fleet.deliver(taken)
    assert await fleet.states(second, third, fourth) == ["QUEUED", "BLOCKED", "BLOCKED"]
    (taken,) = await fleet.claim(room=9)
    await fleet.deliver(taken)
    assert await fleet.states(second, third, fourth) == ["SUCCEEDED", "QUEUED", "BLOCKED"]


async def test_one_that_waits_in_the_middle_of_a_destination_takes_its_turn(fleet: StoreFleet) -> None:
    await fleet.session()
    (gate,) = await fleet.submit(plan(job()))
    (first,) = await fleet.submit(plan(push("/same")))
    (second,) = await after(fleet, gate, work=push("/same"))
    (third,) = await fleet.submit(plan(push("/same")))
    taken = {task.id: task for task in await fleet.claim(room=9)}
    await fleet.deliver(taken[first.id])
    assert await fleet.states(second, third) == ["BLOCKED", "BLOCKED"], "the second waits for the gate"
    assert (await fleet.now(second)).status.wait_reason is WaitReason.AFTER
    await fleet.report(taken[gate.id], Outcome.OK)
    assert await fleet.states(second, third) == ["QUEUED", "BLOCKED"]


async def test_what_becomes_free_behind_the_head_waits_for_the_head(fleet: StoreFleet) -> None:
    await fleet.session()
    (gate,) = await fleet.submit(plan(job()))
    (first,) = await fleet.submit(plan(push("/same")))
    (second,) = await after(fleet, gate, work=push("/same"))
    taken = {task.id: task for task in await fleet.claim(room=9)}
    await fleet.report(taken[gate.id], Outcome.OK)
    status = (await fleet.now(second)).status
    assert (status.state, status.wait_reason) == (State.BLOCKED, WaitReason.EARLIER_TASK)
    await fleet.deliver(taken[first.id])
    assert await fleet.state(second) is State.QUEUED


async def test_a_time_and_a_dependency_both_have_to_come(fleet: StoreFleet) -> None:
    await fleet.session()
    (gate,) = await fleet.submit(plan(job()))
    early, late = await fleet.submit(
        plan(push("/early"), after=(gate.id,), not_before=10.0), plan(push("/late"), after=(gate.id,), not_before=100.0)
    )
    assert await fleet.states(early, late) == ["SCHEDULED", "SCHEDULED"]
    fleet.clock.advance(20.0)
    await fleet.tick()
    assert await fleet.states(early, late) == ["BLOCKED", "SCHEDULED"]
    await fleet.report(await fleet.claim_one(), Outcome.OK)
    assert await fleet.states(early, late) == ["QUEUED", "SCHEDULED"]
    fleet.clock.advance(100.0)
    await fleet.tick()
    assert await fleet.state(late) is State.QUEUED


async def test_what_has_ended_counts_at_acceptance(fleet: StoreFleet) -> None:
    await fleet.session()
    one, two = await fleet.submit(plan(push("/one")), plan(push("/two")))
    first, second = await fleet.claim(room=9)
    await fleet.deliver(first)
    await fail(fleet, second)
    (at_once,) = await after(fleet, one)
    assert at_once.status.state is State.QUEUED
    with pytest.raises(DependencyFailed, match=two.id):
        await after(fleet, one, two)
    (patient,) = await after(fleet, one, two, after_any_end=True, work=job())
    assert patient.status.state is State.QUEUED


async def test_only_tasks_that_the_caller_may_see_can_be_named(fleet: StoreFleet) -> None:
    (task,) = await fleet.submit(plan(push("/one")))
    for principal, named in (("bob", task.id), ("alice", task.id[:-1] + "0"), ("alice", "nothing")):
        with pytest.raises(NotFound):
            await fleet.submit(plan(job(), after=(named,)), principal=principal)
    command = SubmitTasks(
        principal="bob", request_id="b", fingerprint="f", plans=(plan(job(), after=(task.id,)),), any_creator=True
    )
    (follower,) = await fleet.run(command)
    assert follower.status.state is State.BLOCKED


async def test_a_dependency_that_ends_in_the_transaction_that_accepts_the_task(fleet: StoreFleet) -> None:
    await fleet.session()
    (bad,) = await fleet.submit(plan(push("/bad")))
    (child,) = await after(fleet, bad)
    taken = await fleet.claim_one()
    wanted = SubmitTasks(
        principal="alice",
        request_id="r",
        fingerprint="f",
        plans=(plan(push("/new"), after=(child.id,)), plan(job(), after=(child.id,), after_any_end=True)),
    )
    # The report ends the first, and at the end of the transaction its follower ends, which lived at acceptance.
    _, made = await fleet.together(fleet.reporting(taken, Outcome.PERMANENT), wanted)
    assert await reasons(fleet, [child, *made]) == [("CANCELLED", "DEPENDENCY_FAILED")] * 2 + [("QUEUED", "")]


async def test_the_tasks_of_an_upload_come_after_others(fleet: StoreFleet) -> None:
    await fleet.session()
    one, two = await fleet.submit(plan(push("/one")), plan(push("/two")))
    opened = [
        await fleet.open_upload(terms=plan(after=(task.id,)).terms, request_id=f"u{number}", upload_id=f"u{number}")
        for number, task in enumerate((one, two))
    ]
    first, second = await fleet.claim(room=9)
    await fleet.deliver(first)
    await fail(fleet, second)
    done = [
        (await fleet.finish(upload, plan(push(f"/{upload.id}"), after=(task.id,)))).tasks[0]
        for upload, task in zip(opened, (one, two), strict=True)
    ]
    assert await reasons(fleet, done) == [("QUEUED", ""), ("CANCELLED", "DEPENDENCY_FAILED")]
    with pytest.raises(DependencyFailed):
        await fleet.open_upload(terms=plan(after=(two.id,)).terms)


async def test_a_retry_of_a_dependency_heals_nothing_and_a_retry_of_a_follower_says_so(fleet: StoreFleet) -> None:
    await fleet.session()
    (bad,) = await fleet.submit(plan(push("/bad")))
    (child,) = await after(fleet, bad)
    await fail(fleet, await fleet.claim_one())

    async def retried(task: Task, *, force: bool = False) -> Task:
        return await fleet.run(
            RetryTask(
                principal="alice",
                creator="alice",
                task_id=task.id,
                request_id=f"again-{task.id}-{force}",
                force=force,
                expected_revision=None,
                bounds=Bounds(),
            )
        )

    again = await retried(bad)
    assert await fleet.state(child) is State.CANCELLED
    with pytest.raises(DependencyFailed):
        await retried(child)
    forced = await retried(child, force=True)
    assert (forced.status.state, forced.submission.terms.after) == (State.QUEUED, ())
    # One that was cancelled while it waited comes after what still lives; one that ran comes after nothing.
    (waiting,) = await after(fleet, again, work=push("/waiting"))
    await fleet.cancel(waiting)
    assert (await retried(waiting)).submission.terms.after == (again.id,)
    (ran,) = await after(fleet, again, work=push("/ran"))
    taken = {task.id: task for task in await fleet.claim(room=9)}
    await fleet.deliver(taken[again.id])
    taken = {task.id: task for task in await fleet.claim(room=9)}
    await fail(fleet, taken[ran.id])
    fleet.clock.advance(1.0)
    assert (await retried(ran)).submission.terms.after == ()


async def test_a_thousand_followers_hear_of_an_end_in_several_transactions(
    fleet: StoreFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "MOST", 70)
    await fleet.session()
    (gate,) = await fleet.submit(plan(job()))
    many = await after(fleet, gate, count=1000)
    (last,) = await after(fleet, *many[-50:], work=job())
    seen = len(fleet.changes)
    await fail(fleet, await fleet.claim_one())

    await until(lambda: any(change.task.id == last.id for changes in fleet.changes[seen:] for change in changes.tasks))
    assert not await fleet.store.left_followers()
    assert {state for state, _ in await reasons(fleet, many)} == {"CANCELLED"}
    assert max(len(changes.tasks) for changes in fleet.changes[seen:]) <= 72, "none grows without bound"


async def test_ends_that_a_server_had_begun_to_tell_are_found_again(
    open_store: OpenStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "MOST", 2)
    async with open_store(clock) as store:
        fleet = StoreFleet(store, clock)
        await fleet.session()
        (gate,) = await fleet.submit(plan(job()))
        many = await after(fleet, gate, count=7)
        monkeypatch.setattr(store._writer, "_follow_up", lambda _command: None)
        await fleet.report(await fleet.claim_one(), Outcome.OK)
        assert sorted(await fleet.states(*many)) == ["BLOCKED"] * 5 + ["QUEUED"] * 2
    async with open_store(clock) as store:
        fleet = StoreFleet(store, clock)
        monkeypatch.setattr(store._writer, "_follow_up", lambda _command: None)
        rounds = 0
        while ended := await store.left_followers():
            await fleet.run(ReleaseFollowers(ended=tuple(ended)))
            rounds += 1
        assert rounds == 3
        assert set(await fleet.states(*many)) == {"QUEUED"}
        await fleet.whole()


async def test_followers_of_a_task_whose_history_is_removed_are_not_left_behind(
    fleet: StoreFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "MOST", 0)
    monkeypatch.setattr(fleet.store._writer, "_follow_up", lambda _command: None)
    await fleet.session()
    (gate,) = await fleet.submit(plan(job()))
    (child,) = await after(fleet, gate)
    (patient,) = await after(fleet, gate, after_any_end=True, work=job())
    await fleet.report(await fleet.claim_one(), Outcome.OK)
    fleet.clock.advance(100.0)
    assert await fleet.run(PurgeTasks(age=50.0)) == 1
    monkeypatch.setattr(followers, "MOST", 500)
    await fleet.run(ReleaseFollowers(ended=tuple(await fleet.store.left_followers())))
    assert await reasons(fleet, [child, patient]) == [("CANCELLED", "DEPENDENCY_FAILED"), ("QUEUED", "")]
    error = (await fleet.now(child)).status.error
    assert error is not None
    assert gate.id in error.message


async def test_nothing_is_kept_when_all_have_ended(fleet: StoreFleet) -> None:
    await fleet.session()
    (gate,) = await fleet.submit(plan(job()))
    (child,) = await after(fleet, gate)
    await fleet.cancel(child)
    await fleet.report(await fleet.claim_one(), Outcome.OK)
    assert await fleet.store.unmet([child.id]) == {}
    assert await fleet.store.left_followers() in ((), [])
