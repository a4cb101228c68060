"""Tasks are submitted, cancelled, retried and settled by hand, and queues are paused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from longshore.server.model.errors import (
    CallerShare,
    NotFound,
    NotRetryable,
    NotSettling,
    PayloadGone,
    QueueFull,
    QueueNotFound,
    RequestIdReused,
    RevisionMismatch,
    Superseded,
)
from longshore.server.model.task import Failure, Task
from longshore.server.model.values import Outcome, Settlement, State, WaitReason
from longshore.server.store.commands import (
    Bounds,
    CancelTask,
    DoomPayloads,
    PauseQueue,
    PurgeTasks,
    RetryTask,
    SettleTask,
)
from longshore.server.store.protocol import TaskFilter
from tests.conformance.conftest import OpenStore
from tests.support.stores.store import ManualClock, StoreFleet, job, plan, push, submit


def retry(task: Task, **more: Any) -> RetryTask:
    values: dict[str, Any] = {
        "principal": "alice",
        "creator": "alice",
        "task_id": task.id,
        "request_id": "again",
        "force": False,
        "expected_revision": None,
        "bounds": Bounds(),
    }
    return RetryTask(**(values | more))


async def failed(fleet: StoreFleet, *, path: str = "/etc/motd") -> Task:
    """A task with a payload that a worker could not deliver."""
    await fleet.session()
    await fleet.upload(plan(push(path)))
    task = await fleet.claim_one()
    assert await fleet.report(task, Outcome.PERMANENT, error=Failure("NO_SPACE", "no space left"))
    return await fleet.now(task)


# Submitting -----------------------------------------------------------------------------------------------------------


async def test_every_field_of_a_task_is_stored_and_read_back(fleet: StoreFleet) -> None:
    given = plan(
        push("/a b/ü", "web-1", project="shop", mode=0, uid=1000, gid=1001, create_parents=True, read_back=True),
        queue="nightly",
        priority=-7,
        labels={"b": "2", "a": "1"},
        expire_after=50.0,
        run_timeout=7.5,
        stall_timeout=3.25,
        attempt_limit=9,
        description='naïve "\\ \u2028 \U0001f6a2',
    )
    first, second = await fleet.submit(given, plan(job(target="default", instance="web1")))
    submission = (await fleet.now(first)).submission
    assert submission == first.submission
    assert submission.terms == given.terms
    assert (submission.work, submission.kind, submission.terms.queue, submission.terms.priority) == (
        given.work,
        "file_push",
        "nightly",
        -7,
    )
    assert dict(submission.terms.labels) == {"a": "1", "b": "2"}
    assert (submission.terms.run_timeout, submission.terms.stall_timeout, submission.terms.attempt_limit) == (
        7.5,
        3.25,
        9,
    )
    assert (submission.created_at, submission.expires_at) == (fleet.clock.now(), fleet.clock.now() + 50.0)
    assert (await fleet.now(second)).submission.work == job(target="default", instance="web1")


async def test_where_a_task_begins(fleet: StoreFleet) -> None:
    head, behind, later = await fleet.submit(plan(), plan(), plan(push("/b"), not_before=60.0))
    assert (head.status.state, head.status.head) == (State.QUEUED, True)
    assert (behind.status.state, behind.status.head) == (State.BLOCKED, False)
    assert behind.status.wait_reason is WaitReason.EARLIER_TASK
    assert (later.status.state, later.status.head, later.status.wait_reason, later.status.due_at) == (
        State.SCHEDULED,
        True,
        WaitReason.NOT_BEFORE,
        fleet.clock.now() + 60.0,
    )


async def test_the_same_request_gives_the_same_tasks(fleet: StoreFleet, clock: ManualClock) -> None:
    first = await fleet.run(submit(plans=(plan(), plan(push("/b")))))
    once, twice = await fleet.together(submit(), submit(bounds=Bounds(queue_tasks=0)))
    assert once == twice == first
    with pytest.raises(RequestIdReused):
        await fleet.run(submit(fingerprint="other"))
    await fleet.open_upload(request_id="upload")
    with pytest.raises(RequestIdReused):
        await fleet.run(submit(request_id="upload"))
    assert (await fleet.run(submit(principal="bob")))[0].id != first[0].id


async def test_the_same_request_twice_in_one_group_gives_the_same_tasks(fleet: StoreFleet) -> None:
    once, twice, other = await fleet.together(submit(), submit(), submit(fingerprint="other"))
    assert once == twice
    assert isinstance(other, RequestIdReused)
    assert len(await fleet.store.list_tasks(TaskFilter(), before=None, limit=9)) == 1


async def test_the_same_request_after_a_restart(open_store: OpenStore, clock: ManualClock) -> None:
    async with open_store(clock) as store:
        first = await store.run(submit())
    async with open_store(clock) as store:
        assert await store.run(submit()) == first


async def test_bounds_hold_after_a_restart_that_began_with_a_cancel(open_store: OpenStore, clock: ManualClock) -> None:
    """The first transaction moves sums that it has not read; what is remembered of them must be what is stored (P3)."""
    async with open_store(clock) as store:
        first, _ = await StoreFleet(store, clock).submit(plan(), plan())
    async with open_store(clock) as store:
        fleet = StoreFleet(store, clock)
        await fleet.cancel(first)
        for bounds, error in ((Bounds(queue_tasks=1), QueueFull), (Bounds(caller_tasks=1), CallerShare)):
            with pytest.raises(error):
                await fleet.submit(plan(push("/more")), request_id="one too many", bounds=bounds)
        await fleet.submit(plan(push("/more")), request_id="the last one", bounds=Bounds(queue_tasks=2, caller_tasks=2))
        await fleet.whole()


async def test_bounds_of_submits(fleet: StoreFleet) -> None:
    await fleet.run(submit(bounds=Bounds(queue_tasks=1, caller_tasks=1)))
    for bounds, error in ((Bounds(queue_tasks=1), QueueFull), (Bounds(caller_tasks=1), CallerShare)):
        with pytest.raises(error):
            await fleet.run(submit(request_id="s", bounds=bounds))
    await fleet.run(submit(principal="bob", request_id="s", bounds=Bounds(queue_tasks=2, caller_tasks=1)))


async def test_ended_tasks_make_room(fleet: StoreFleet) -> None:
    (task,) = await fleet.run(submit(bounds=Bounds(queue_tasks=1, caller_tasks=1)))
    await fleet.cancel(task)
    await fleet.run(submit(request_id="s", bounds=Bounds(queue_tasks=1, caller_tasks=1)))


async def test_a_kept_payload_can_be_used_again_by_its_own(fleet: StoreFleet) -> None:
    upload = await fleet.upload()
    assert upload.payload is not None
    more = await fleet.run(submit(payload_id=upload.payload.id, plans=(plan(push("/b")),)))
    assert more[0].submission.payload == upload.payload
    with pytest.raises(PayloadGone):
        await fleet.run(submit(principal="bob", payload_id=upload.payload.id))
    assert await fleet.run(submit(principal="bob", payload_id=upload.payload.id, any_creator=True))
    with pytest.raises(PayloadGone):
        await fleet.run(submit(request_id="s", payload_id="unknown"))


async def test_a_doomed_payload_makes_no_tasks(fleet: StoreFleet) -> None:
    upload = await fleet.upload()
    await fleet.session()
    await fleet.deliver(await fleet.claim_one())
    assert upload.payload is not None
    assert await fleet.run(DoomPayloads()) == (upload.payload.id,)
    with pytest.raises(PayloadGone):
        await fleet.run(submit(payload_id=upload.payload.id))


# Cancelling -----------------------------------------------------------------------------------------------------------


async def test_cancel_before_a_worker_has_it(fleet: StoreFleet) -> None:
    head, behind, later = await fleet.submit(plan(), plan(), plan(push("/b"), not_before=60.0))
    for task in (behind, later, head):
        ended = await fleet.cancel(task)
        assert (ended.status.state, ended.status.cancel_requested, ended.status.cancel_reason) == (
            State.CANCELLED,
            True,
            "enough",
        )
        assert ended.status.finished_at == fleet.clock.now()
        assert ended == await fleet.now(task)


async def test_cancel_names_the_session_that_holds_the_task(fleet: StoreFleet) -> None:
    await fleet.session()
    await fleet.submit()
    task = await fleet.claim_one()
    cancelled = await fleet.cancel(task)
    assert cancelled.status.state is State.CANCELLING
    assert fleet.changes[-1].tasks[-1].holder == ("session-1", 1)
    again = await fleet.cancel(task)
    assert again == cancelled, "a second cancel changes nothing"
    assert await fleet.report(task, Outcome.STOPPED)
    assert await fleet.state(task) is State.CANCELLED


async def test_cancel_of_a_finished_task_answers_with_it(fleet: StoreFleet) -> None:
    task = await failed(fleet)
    assert await fleet.cancel(task) == task


async def test_cancel_is_refused(fleet: StoreFleet) -> None:
    (task,) = await fleet.submit()
    for command in (
        CancelTask(task_id=task.id, creator="bob", reason=""),
        CancelTask(task_id="0" * 26, creator=None, reason=""),
        CancelTask(task_id="nonsense", creator=None, reason=""),
        CancelTask(task_id=task.id[:-1] + ("0" if task.id[-1] != "0" else "1"), creator=None, reason=""),
    ):
        with pytest.raises(NotFound):
            await fleet.run(command)
    with pytest.raises(RevisionMismatch):
        await fleet.run(CancelTask(task_id=task.id, creator="alice", reason="", expected_revision=2))
    assert await fleet.now(task) == task
    done = await fleet.run(CancelTask(task_id=task.id, creator="alice", reason="", expected_revision=1))
    assert done.status.state is State.CANCELLED


# Retrying -------------------------------------------------------------------------------------------------------------


async def test_a_retry_is_a_new_task_at_the_end(fleet: StoreFleet) -> None:
    old = await failed(fleet)
    (other,) = await fleet.submit(plan())
    fleet.clock.advance(100)
    new = await fleet.run(retry(old))
    assert new.id != old.id
    assert (new.submission.retry_of, new.submission.work, new.submission.payload) == (
        old.id,
        old.submission.work,
        old.submission.payload,
    )
    assert (new.status.state, new.status.attempt, new.submission.created_at) == (State.BLOCKED, 0, fleet.clock.now())
    assert (
        new.submission.expires_at - new.submission.created_at == old.submission.expires_at - old.submission.created_at
    )
    await fleet.cancel(other)
    assert await fleet.state(new) is State.QUEUED
    assert await fleet.run(retry(old)) == await fleet.now(new), "the same id gives the same task"
    assert (await fleet.run(retry(old, request_id="third"))).id != new.id


async def test_a_retry_keeps_the_terms(fleet: StoreFleet) -> None:
    (old,) = await fleet.submit(plan(labels={"a": "1"}, priority=3, expire_after=0.1, description="why"))
    await fleet.cancel(old)
    new = await fleet.run(retry(old))
    assert new.submission.terms == old.submission.terms == (await fleet.now(new)).submission.terms
    assert new.submission.terms.description == "why"


async def test_retry_is_refused(fleet: StoreFleet) -> None:
    old = await failed(fleet)
    (live,) = await fleet.submit(plan(push("/live")))
    for command, error in (
        (retry(old, creator="bob"), NotFound),
        (retry(old, task_id="0" * 26), NotFound),
        (retry(live), NotRetryable),
        (retry(old, expected_revision=1), RevisionMismatch),
        (retry(old, request_id=live.submission.request_id), RequestIdReused),
        (retry(old, bounds=Bounds(queue_tasks=1)), QueueFull),
        (retry(old, bounds=Bounds(caller_tasks=1)), CallerShare),
    ):
        with pytest.raises(error):
            await fleet.run(command)


async def test_an_operators_retry_keeps_the_tasks_creator(fleet: StoreFleet) -> None:
    old = await failed(fleet)
    for_alice = retry(old, creator=None, principal="root")
    new = await fleet.run(for_alice)
    assert (new.submission.creator, new.submission.retried_by) == ("alice", "root")
    assert await fleet.store.task(new.id, creator="alice") == await fleet.now(new)
    assert await fleet.store.task(new.id, creator="root") is None
    assert await fleet.run(for_alice) == await fleet.now(new), "the request is root's, and its id gives the same task"
    other = await fleet.run(retry(old))
    assert other.id != new.id, "alice may use the same id for a request of hers"
    assert (other.submission.creator, other.submission.retried_by) == ("alice", "")
    with pytest.raises(CallerShare):
        await fleet.run(replace(for_alice, request_id="third", bounds=Bounds(caller_tasks=2)))
    await fleet.cancel(new)
    await fleet.cancel(other)
    assert await fleet.store.verify_counters() == [], "each end counts for the request that made the task"
    fleet.clock.advance(8 * 86400)
    assert await fleet.run(PurgeTasks(age=7 * 86400)) == 3


async def test_a_success_is_not_retried(fleet: StoreFleet) -> None:
    await fleet.session()
    await fleet.submit()
    done = await fleet.deliver(await fleet.claim_one())
    with pytest.raises(NotRetryable):
        await fleet.run(retry(done))


async def test_a_retry_is_superseded_by_a_later_delivery_unless_forced(fleet: StoreFleet) -> None:
    old = await failed(fleet)
    (later,) = await fleet.submit(plan())
    await fleet.deliver(await fleet.claim_one())
    with pytest.raises(Superseded):
        await fleet.run(retry(old))
    assert (await fleet.run(retry(old, force=True))).status.state is State.QUEUED
    elsewhere = await failed(fleet, path="/elsewhere")
    assert elsewhere.submission.seq > later.submission.seq
    assert (await fleet.run(retry(elsewhere, request_id="elsewhere"))).submission.retry_of == elsewhere.id


async def test_a_retry_needs_the_payload(fleet: StoreFleet) -> None:
    old = await failed(fleet)
    assert old.status.retryable_until is not None
    fleet.clock.advance(old.status.retryable_until - fleet.clock.now() - 1)
    assert await fleet.run(DoomPayloads()) == ()
    fleet.clock.advance(1)
    assert len(await fleet.run(DoomPayloads())) == 1
    with pytest.raises(PayloadGone):
        await fleet.run(retry(old))


# Settling by hand -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settlement", "state"),
    [
        (Settlement.LANDED, State.SUCCEEDED),
        (Settlement.REMOVED, State.QUEUED),
        (Settlement.NEITHER, State.QUEUED),
    ],
)
async def test_an_operator_settles(fleet: StoreFleet, settlement: Settlement, state: State) -> None:
    await fleet.session()
    (task,) = await fleet.submit()
    with pytest.raises(NotSettling):
        await fleet.run(SettleTask(task_id=task.id, settlement=settlement))
    task = await fleet.claim_one()
    await fleet.grant(task)
    await fleet.report(task, Outcome.UNKNOWN)
    assert await fleet.state(task) is State.SETTLING
    settled = await fleet.run(SettleTask(task_id=task.id, settlement=settlement))
    assert settled.status.state is state
    with pytest.raises(NotSettling):
        await fleet.run(SettleTask(task_id=task.id, settlement=settlement))
    with pytest.raises(NotFound):
        await fleet.run(SettleTask(task_id="0" * 26, settlement=settlement))


# Pausing --------------------------------------------------------------------------------------------------------------


async def test_a_paused_queue_starts_nothing_and_accepts(fleet: StoreFleet) -> None:
    await fleet.session()
    tasks = [*await fleet.submit(plan(push("/before"), queue="q"), plan(job(), queue="q"))]
    await fleet.run(PauseQueue(queue="q", paused=True))
    await fleet.run(PauseQueue(queue="q", paused=True))
    tasks += await fleet.submit(plan(push("/after"), queue="q"), plan(job(), queue="q"))
    (other,) = await fleet.submit(plan(push("/other")))
    assert [task.id for task in await fleet.claim(room=9)] == [other.id]
    assert [queue.paused for queue in (await fleet.store.figures()).queues if queue.queue == "q"] == [True]
    fleet.changes.clear()
    await fleet.run(PauseQueue(queue="q", paused=False))
    assert fleet.changes[-1].claimable
    assert [task.id for task in await fleet.claim(room=9)] == [task.id for task in tasks]


async def test_a_paused_queue_does_not_hold_the_slots_of_an_instance(fleet: StoreFleet) -> None:
    await fleet.session()
    await fleet.submit(*(plan(push(f"/paused{number}"), queue="q") for number in range(9)))
    others = await fleet.submit(*(plan(push(f"/other{number}")) for number in range(2)))
    await fleet.run(PauseQueue(queue="q", paused=True))
    assert [task.id for task in await fleet.claim(room=9)] == [task.id for task in others]
    await fleet.run(PauseQueue(queue="q", paused=False))
    assert len(await fleet.claim(room=9)) == 2, "two of four slots are taken"


async def test_pausing_needs_an_existing_queue_unless_create_is_given(fleet: StoreFleet) -> None:
    for paused in (True, False):
        with pytest.raises(QueueNotFound, match="there are: default"):
            await fleet.run(PauseQueue(queue="nigthly", paused=paused, create=False))
        await fleet.run(PauseQueue(queue="default", paused=paused, create=False))
    assert [row.queue for row in (await fleet.store.figures()).queues] == ["default"]
    (task,) = await fleet.submit(plan(queue="nightly"))
    await fleet.run(PauseQueue(queue="nightly", paused=True, create=False))
    await fleet.cancel(task)
    await fleet.run(PauseQueue(queue="nightly", paused=False, create=False))
    await fleet.run(PauseQueue(queue="weekly", paused=True))
    await fleet.run(PauseQueue(queue="weekly", paused=False, create=False))


async def test_a_task_that_returns_to_a_paused_queue_waits(fleet: StoreFleet) -> None:
    await fleet.session()
    await fleet.submit(plan(queue="q"))
    task = await fleet.claim_one()
    await fleet.run(PauseQueue(queue="q", paused=True))
    await fleet.report(task, Outcome.HANDED_BACK)
    assert await fleet.state(task) is State.QUEUED
    assert await fleet.claim() == []
    await fleet.run(PauseQueue(queue="q", paused=False))
    assert len(await fleet.claim()) == 1
