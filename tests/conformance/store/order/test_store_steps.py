"""Plans: all of their tasks are accepted or none, and steps come after steps (P17)."""

from __future__ import annotations

import pytest

from longshore.server.model.errors import (
    CallerShare,
    DependencyFailed,
    LongshoreError,
    NotFound,
    PayloadGone,
    QueueFull,
    RequestIdReused,
    SpoolFull,
)
from longshore.server.model.task import Failure, Payload
from longshore.server.model.values import Outcome, State
from longshore.server.store.commands import Bounds, CancelBatch, DoomPayloads, PurgeTasks, StepPlan, SubmitPlan
from longshore.server.store.protocol import TaskFilter
from tests.support.stores.store import StoreFleet, job, plan, push


def step(path: str, *after: int, **more: object) -> StepPlan:
    return StepPlan(plan(push(path), **more), after)  # type: ignore[arg-type]


def submitting(*steps: StepPlan, **more: object) -> SubmitPlan:
    values: dict[str, object] = {"principal": "alice", "request_id": "p", "fingerprint": "same", "steps": steps}
    return SubmitPlan(**(values | more))  # type: ignore[arg-type]


async def nothing_was_made(fleet: StoreFleet) -> None:
    assert await fleet.store.request_summary("alice", "p") is None
    assert not list(await fleet.store.list_tasks(TaskFilter(queue="plans"), before=None, limit=9))


async def test_steps_run_in_their_order_and_have_one_request(fleet: StoreFleet) -> None:
    await fleet.session()
    steps = (step("/a"), StepPlan(plan(job()), (0,)), step("/c", 0, 1), step("/d"))
    made = await fleet.run(submitting(*steps))
    assert await fleet.states(*made) == ["QUEUED", "BLOCKED", "BLOCKED", "QUEUED"]
    assert [task.submission.terms.after for task in made] == [(), (made[0].id,), (made[0].id, made[1].id), ()]
    assert await fleet.run(submitting(*steps)) == tuple([await fleet.now(task) for task in made]), "the same again"
    with pytest.raises(RequestIdReused):
        await fleet.run(submitting(*steps, fingerprint="another"))
    done = []
    while taken := await fleet.claim(room=9):
        for task in taken:
            done.append(task.id)
            if task.submission.kind == "report":
                assert await fleet.report(task, Outcome.OK)
            else:
                await fleet.deliver(task)
    assert done == [made[0].id, made[3].id, made[1].id, made[2].id]
    found = await fleet.store.request_summary("alice", "p")
    assert found is not None
    assert found.verdict.name == "SUCCEEDED"


@pytest.mark.parametrize("wrong", ["payload", "after", "failed", "queue", "share", "spool"])
@pytest.mark.parametrize("dry_run", [False, True])
async def test_of_a_thousand_steps_with_one_that_is_wrong_none_is_made(
    fleet: StoreFleet, wrong: str, dry_run: bool
) -> None:
    await fleet.session()
    (bad,) = await fleet.submit(plan(push("/bad")))
    await fleet.report(await fleet.claim_one(), Outcome.PERMANENT, error=Failure("NO_SPACE", "full"))
    steps = [step(f"/{number}", *([number - 1] if number else []), queue="plans") for number in range(1000)]
    bounds: Bounds = Bounds()
    error: type[LongshoreError] = LongshoreError
    match wrong:
        case "payload":
            steps[700], error = StepPlan(plan(queue="plans"), (), "0" * 32), PayloadGone
        case "after":
            steps[700], error = step("/x", queue="plans", after=(bad.id[:-1] + "?",)), NotFound
        case "failed":
            steps[700], error = step("/x", queue="plans", after=(bad.id,)), DependencyFailed
        case "queue":
            bounds, error = Bounds(queue_tasks=999), QueueFull
        case "share":
            steps[700], bounds, error = step("/x", queue="other"), Bounds(caller_tasks=999), CallerShare
        case "spool":
            payload = Payload("inline-1", 11, 7)
            steps[700] = StepPlan(plan(queue="plans"), (), "", payload, b"x" * 11)
            bounds, error = Bounds(spool_bytes=10), LongshoreError
    with pytest.raises(error) as refused:
        await fleet.run(submitting(*steps, bounds=bounds, dry_run=dry_run))
    assert wrong != "spool" or refused.value.reason in (SpoolFull.reason, "PAYLOAD_TOO_LARGE")
    await nothing_was_made(fleet)
    await fleet.whole()


async def test_a_dry_run_makes_nothing_and_the_plan_can_follow_under_the_same_id(fleet: StoreFleet) -> None:
    steps = tuple(step(f"/{number}", *range(max(0, number - 3), number), queue="plans") for number in range(50))
    assert await fleet.run(submitting(*steps, dry_run=True)) == ()
    await nothing_was_made(fleet)
    made = await fleet.run(submitting(*steps))
    assert len(made) == 50
    assert await fleet.run(submitting(*steps, dry_run=True)) == ()


async def test_a_thousand_steps_in_a_chain_are_accepted_and_fall_with_the_first(fleet: StoreFleet) -> None:
    await fleet.session()
    steps = [step(f"/{number}", *([number - 1] if number else [])) for number in range(1000)]
    made = await fleet.run(submitting(*steps))
    (other,) = await fleet.submit(plan(push("/999")))
    assert await fleet.state(other) is State.BLOCKED, "the last step has its place"
    await fleet.report(await fleet.claim_one(), Outcome.PERMANENT, error=Failure("NO_SPACE", "full"))
    while await fleet.state(made[-1]) is not State.CANCELLED:
        await fleet.tick()
    found = await fleet.store.request_summary("alice", "p")
    assert found is not None
    assert (found.verdict.name, found.states) == ("FAILED", {State.FAILED: 1, State.CANCELLED: 999})
    assert [task.id for task in found.failures] == [made[0].id], "the cause, and not what hung on it"
    assert await fleet.state(other) is State.QUEUED


async def test_a_cancelled_plan_starts_nothing_more(fleet: StoreFleet) -> None:
    await fleet.session()
    made = await fleet.run(submitting(step("/a"), step("/b", 0), step("/c", 1)))
    taken = await fleet.claim_one()
    await fleet.run(CancelBatch(principal="alice", request_id="p", reason="enough"))
    assert await fleet.states(*made) == ["CANCELLING", "CANCELLED", "CANCELLED"]
    assert not (await fleet.grant(taken)).granted
    assert await fleet.report(taken, Outcome.STOPPED)
    assert await fleet.claim(room=9) == []
    assert {(await fleet.now(task)).status.attempt for task in made[1:]} == {0}


async def test_several_payloads_by_upload_and_in_the_request(fleet: StoreFleet) -> None:
    uploaded = await fleet.open_upload(request_id="u", tasks=0)
    done = await fleet.finish_without_tasks(uploaded)
    payload = done.payload
    assert payload is not None
    assert done.tasks == ()
    kept_until = await fleet.store.kept_until(payload.id)
    assert kept_until is not None
    assert kept_until > fleet.clock.now()
    with pytest.raises(PayloadGone):
        await fleet.run(submitting(StepPlan(plan(), (), payload.id), principal="bob"))
    inline = Payload("inline-1", 3, 7)
    made = await fleet.run(
        submitting(StepPlan(plan(push("/a")), (), payload.id), StepPlan(plan(push("/b")), (0,), "", inline, b"abc"))
    )
    assert [task.submission.payload for task in made] == [payload, inline]
    assert await fleet.store.kept_until(payload.id) is None, "a live task keeps it"
    assert await fleet.run(DoomPayloads()) == ()


async def test_a_payload_without_tasks_goes_in_its_time_and_its_request_with_the_history(fleet: StoreFleet) -> None:
    uploaded = await fleet.open_upload(request_id="u", tasks=0)
    done = await fleet.finish_without_tasks(uploaded)
    again = await fleet.open_upload(request_id="u", tasks=0)
    assert (again.payload, again.tasks) == (done.payload, ())
    assert await fleet.store.request_summary("alice", "u") is None
    assert await fleet.run(DoomPayloads()) == ()
    fleet.clock.advance(30 * 3600.0)
    assert await fleet.run(DoomPayloads()) == (uploaded.id,)
    await fleet.run(PurgeTasks(age=3600.0))
    assert await fleet.store.upload("alice", "u") is None
