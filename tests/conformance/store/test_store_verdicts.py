"""One verdict on all tasks of a request, and a cancel of all of them."""

from __future__ import annotations

import pytest

from longshore.server.model.errors import NotFound
from longshore.server.model.request_summary import BatchVerdict, RequestSummary
from longshore.server.model.task import Failure
from longshore.server.model.values import Outcome, State
from longshore.server.store.commands import CancelBatch, PurgeTasks
from tests.support.stores.store import StoreFleet, job, plan, push


async def verdict(fleet: StoreFleet, request_id: str = "r") -> tuple[str, dict[str, int]]:
    found = await found_batch(fleet, request_id)
    return found.verdict.name, {state.name: count for state, count in found.states.items()}


async def found_batch(fleet: StoreFleet, request_id: str = "r") -> RequestSummary:
    found = await fleet.store.request_summary("alice", request_id)
    assert found is not None
    return found


async def test_the_verdict_follows_the_tasks(fleet: StoreFleet) -> None:
    await fleet.session()
    plans = [plan(push(f"/{number}")) for number in range(3)]
    tasks = await fleet.submit(*plans, request_id="r")
    await fleet.submit(plan(job()), request_id="another")
    assert await verdict(fleet) == ("RUNNING", {"QUEUED": 3})
    taken = await fleet.claim(room=2)
    await fleet.deliver(taken[0])
    assert await verdict(fleet) == ("RUNNING", {"SUCCEEDED": 1, "RUNNING": 1, "QUEUED": 1})
    assert (await found_batch(fleet)).finished_at is None
    await fleet.report(taken[1], Outcome.PERMANENT, error=Failure("NO_SPACE", "full"))
    assert await verdict(fleet) == ("FAILING", {"SUCCEEDED": 1, "FAILED": 1, "QUEUED": 1})
    fleet.clock.advance(5.0)
    await fleet.cancel(tasks[2])
    found = await found_batch(fleet)
    assert (found.verdict, found.done, found.total) == (BatchVerdict.FAILED, True, 3)
    assert found.finished_at == fleet.clock.now()
    assert found.created_at == tasks[0].submission.created_at
    assert [task.id for task in found.failures] == [tasks[1].id], "what was cancelled is no cause"


async def test_success_and_cancel_have_verdicts_of_their_own(fleet: StoreFleet) -> None:
    await fleet.session()
    await fleet.submit(plan(push("/a")), request_id="good")
    await fleet.submit(plan(push("/b")), plan(push("/c")), request_id="gone")
    taken = await fleet.claim(room=2)
    for task in taken:
        await fleet.deliver(task)
    assert await verdict(fleet, "good") == ("SUCCEEDED", {"SUCCEEDED": 1})
    await fleet.run(CancelBatch(principal="alice", request_id="gone", reason="enough"))
    found = await found_batch(fleet, "gone")
    assert found.verdict is BatchVerdict.CANCELLED
    assert [task.status.cancel_reason for task in found.failures] == ["enough"]


async def test_a_cancelled_batch_stops_what_runs_and_cancels_the_rest_at_once(fleet: StoreFleet) -> None:
    await fleet.session()
    (gate,) = await fleet.submit(plan(push("/gate")))
    made = await fleet.submit(
        plan(push("/one")), plan(push("/gate")), plan(push("/two"), after=(gate.id,)), plan(job()), request_id="r"
    )
    taken = {task.id: task for task in await fleet.claim(room=3)}
    granted = taken[made[0].id]
    await fleet.grant(granted)
    for _ in range(2):
        await fleet.run(CancelBatch(principal="alice", request_id="r", reason="enough"))
        assert await fleet.states(*made) == ["COMMITTING", "CANCELLED", "CANCELLED", "CANCELLING"]
    assert await fleet.state(gate) is State.RUNNING, "the tasks of other requests go on"
    assert {(await fleet.now(task)).status.error for task in made} == {None}, "they are cancelled, each for itself"
    await fleet.report(granted, Outcome.OK)
    await fleet.report(taken[made[3].id], Outcome.STOPPED)
    assert await verdict(fleet) == ("CANCELLED", {"SUCCEEDED": 1, "CANCELLED": 3})


async def test_a_request_is_the_caller_s_own_and_is_forgotten_with_its_tasks(fleet: StoreFleet) -> None:
    (task,) = await fleet.submit(plan(job()), request_id="r")
    for principal, request_id in (("bob", "r"), ("alice", "other")):
        assert await fleet.store.request_summary(principal, request_id) is None
        with pytest.raises(NotFound):
            await fleet.run(CancelBatch(principal=principal, request_id=request_id, reason=""))
    upload = await fleet.open_upload(request_id="u")
    assert await fleet.store.request_summary("alice", "u") is None, "its tasks are not made yet"
    with pytest.raises(NotFound):
        await fleet.run(CancelBatch(principal="alice", request_id="u", reason=""))
    await fleet.finish(upload)
    assert await verdict(fleet, "u") == ("RUNNING", {"QUEUED": 1})
    await fleet.cancel(task)
    fleet.clock.advance(100.0)
    await fleet.run(PurgeTasks(age=50.0))
    assert await fleet.store.request_summary("alice", "r") is None


async def test_the_first_failures_are_shown_in_the_order_of_the_request(fleet: StoreFleet) -> None:
    await fleet.session()
    made = await fleet.submit(*[plan(push(f"/{number}")) for number in range(30)], request_id="r")
    while taken := await fleet.claim(room=9):
        for task in taken:
            await fleet.report(task, Outcome.PERMANENT, error=Failure("NO_SPACE", "full"))
    found = await found_batch(fleet)
    assert [task.id for task in found.failures] == [task.id for task in made[:10]]
