"""Order at a destination, and the history of every task (P10, P11)."""

from __future__ import annotations

from longshore.server.model.events import Reported
from longshore.server.model.task import Failure, Grant
from longshore.server.model.values import DeliveryMethod, Outcome, State, WaitReason
from longshore.server.store.commands import CancelTask, FileReports, RequestGrants, Tick, WakeParked
from longshore.server.store.protocol import TaskFilter
from tests.conformance.conftest import OpenStore
from tests.support.stores.store import ManualClock, StoreFleet, job, plan, push, without_deadline


async def test_ten_tasks_for_one_destination_go_one_at_a_time_in_order(fleet: StoreFleet) -> None:
    await fleet.session()
    tasks = await fleet.submit(*(plan() for _ in range(10)))
    endings = [Outcome.OK, Outcome.PERMANENT, Outcome.TRANSIENT, Outcome.NOT_READY, Outcome.HANDED_BACK] * 2
    for task, outcome in zip(tasks, endings, strict=True):
        (taken,) = await fleet.claim(room=10)
        assert taken.id == task.id
        assert await fleet.claim(room=10) == []
        if outcome not in (Outcome.OK, Outcome.PERMANENT):
            assert await fleet.report(taken, outcome, wait_reason=WaitReason.INSTANCE_STOPPED)
            behind = [state for state in await fleet.states(*tasks) if state == "BLOCKED"]
            assert len(behind) == len(tasks) - tasks.index(task) - 1, "the head keeps its place"
            fleet.clock.advance(400)
            await fleet.tick()
            await fleet.run(WakeParked(target="default", project="", instance="web1", running=True))
            (taken,) = await fleet.claim(room=10)
            assert (taken.id, taken.status.attempt) == (task.id, 2)
        if outcome is Outcome.PERMANENT:
            await fleet.report(taken, Outcome.PERMANENT, error=Failure("NO_SPACE", ""))
        else:
            await fleet.deliver(taken)
    assert [await fleet.state(task) for task in tasks].count(State.SUCCEEDED) == 8


async def test_any_end_of_the_head_passes_the_turn_on(fleet: StoreFleet) -> None:
    tasks = await fleet.submit(plan(expire_after=50.0), plan(), plan(), plan())
    fleet.clock.advance(50)
    await fleet.tick()
    assert await fleet.states(*tasks) == ["EXPIRED", "QUEUED", "BLOCKED", "BLOCKED"]
    await fleet.cancel(tasks[2])
    assert await fleet.states(*tasks) == ["EXPIRED", "QUEUED", "CANCELLED", "BLOCKED"]
    await fleet.cancel(tasks[1])
    assert await fleet.states(*tasks) == ["EXPIRED", "CANCELLED", "CANCELLED", "QUEUED"]


async def test_a_later_task_waits_for_an_earlier_one_that_is_not_due(fleet: StoreFleet) -> None:
    first, second = await fleet.submit(plan(not_before=100.0), plan())
    assert await fleet.states(first, second) == ["SCHEDULED", "BLOCKED"]
    assert await fleet.store.blocking([push().destination_key]) == {push().destination_key: first.id}
    fleet.clock.advance(100)
    await fleet.tick()
    assert await fleet.states(first, second) == ["QUEUED", "BLOCKED"]


async def test_a_due_task_behind_another_is_blocked(fleet: StoreFleet) -> None:
    first, second = await fleet.submit(plan(), plan(not_before=10.0))
    assert not second.status.head
    fleet.clock.advance(10)
    await fleet.tick()
    assert await fleet.states(first, second) == ["QUEUED", "BLOCKED"]
    await fleet.cancel(first)
    assert await fleet.state(second) is State.QUEUED


async def test_a_turn_that_comes_before_its_time_is_quiet(fleet: StoreFleet) -> None:
    first, second = await fleet.submit(plan(), plan(not_before=10.0))
    await fleet.cancel(first)
    turned = await fleet.now(second)
    assert turned.status.head
    assert (turned.status.state, turned.status.revision) == (State.SCHEDULED, 1)
    fleet.clock.advance(10)
    await fleet.tick()
    assert await fleet.state(second) is State.QUEUED


async def test_destinations_differ_in_any_part(fleet: StoreFleet) -> None:
    pushes = [
        push("/a"),
        push("/b"),
        push("/a", "web2"),
        push("/a", project="shop"),
        push("/a", target="other"),
    ]
    tasks = await fleet.submit(*(plan(each) for each in pushes))
    assert await fleet.states(*tasks) == ["QUEUED"] * len(pushes)
    found = await fleet.store.blocking([each.destination_key for each in pushes] + [push("/none").destination_key])
    assert found == {each.destination_key: task.id for each, task in zip(pushes, tasks, strict=True)}


async def test_the_default_project_is_the_same_destination_named_or_not(fleet: StoreFleet) -> None:
    first, second = push("/a"), push("/a", project="default")
    tasks = await fleet.submit(plan(first), plan(second))
    assert await fleet.states(*tasks) == ["QUEUED", "BLOCKED"]
    found = await fleet.store.blocking([first.destination_key, second.destination_key])
    assert found == {first.destination_key: tasks[0].id, second.destination_key: tasks[0].id}


async def test_jobs_without_an_instance_block_no_other_task(fleet: StoreFleet) -> None:
    tasks = await fleet.submit(*(plan(job(target="default", instance="web1")) for _ in range(3)))
    assert await fleet.states(*tasks) == ["QUEUED"] * 3


async def test_a_task_submitted_while_the_head_ends_gets_its_turn(fleet: StoreFleet) -> None:
    (first,) = await fleet.submit()
    from tests.support.stores.store import submit

    _, (second,) = await fleet.together(CancelTask(task_id=first.id, creator=None, reason=""), submit())
    assert second.status.state is State.QUEUED
    assert second.status.head
    await check_histories(fleet)


# Histories ------------------------------------------------------------------------------------------------------------


async def check_histories(fleet: StoreFleet) -> None:
    """Every revision of every task is there once, in order, and the last one is the task."""
    for task in await fleet.store.list_tasks(TaskFilter(), before=None, limit=1000):
        revisions = await fleet.store.history(task.id, after=0)
        assert [each.status.revision for each in revisions] == list(range(1, task.status.revision + 1))
        last = without_deadline(revisions[-1])
        # A head that is not due yet is known without a revision.
        assert last.status == without_deadline(task).status or (
            task.status.state is State.SCHEDULED and task.status.head and not last.status.head
        )


async def test_the_history_tells_every_revision(fleet: StoreFleet) -> None:
    await fleet.session()
    await fleet.submit()
    task = await fleet.claim_one()
    await fleet.grant(task)
    assert await fleet.report(task, Outcome.TRANSIENT, error=Failure("TIMEOUT", "too slow", True), retry_after=5.0)
    fleet.clock.advance(5)
    await fleet.tick()
    done = await fleet.deliver(await fleet.claim_one())
    history = await fleet.store.history(task.id, after=0)
    assert [each.status.state.name for each in history] == [
        "QUEUED",
        "RUNNING",
        "COMMITTING",
        "SCHEDULED",
        "QUEUED",
        "RUNNING",
        "COMMITTING",
        "SUCCEEDED",
    ]
    assert history[-1] == done
    assert history[2].status.grant is not None
    assert history[3].status.error == Failure("TIMEOUT", "too slow", True)
    page = await fleet.store.history(task.id, after=3, limit=2)
    assert page == history[3:5]
    assert await fleet.store.history(task.id, after=8) == []
    assert await fleet.store.history("0" * 26, after=0) == []


async def test_subscribers_hear_every_revision_once_and_in_order(fleet: StoreFleet) -> None:
    await fleet.session()
    fleet.changes.clear()
    await fleet.submit(plan(), plan())
    first = await fleet.claim_one()
    await fleet.deliver(first)
    second = await fleet.claim_one()
    await fleet.cancel(second)
    await fleet.report(second, Outcome.STOPPED)
    heard = [change for changes in fleet.changes for change in changes.tasks]
    for task in (first, second):
        of_task = [change for change in heard if change.task.id == task.id]
        assert [change.task for change in of_task] == await fleet.store.history(task.id, after=0)
    holders = [change.holder for change in heard if change.task.id == second.id]
    assert holders == [None, None, None, ("session-1", 1), ("session-1", 1)]


async def test_two_moves_in_one_transaction_are_two_revisions(fleet: StoreFleet) -> None:
    await fleet.session()
    await fleet.submit()
    task = await fleet.claim_one()
    grant = Grant(1, "session-1", "/etc/.tmp", DeliveryMethod.SFTP, 0.0)
    epoch = fleet.epoch("session-1")
    fleet.changes.clear()
    granted, counted, late = await fleet.together(
        RequestGrants(session_id="session-1", epoch=epoch, requests=((task.id, grant),)),
        FileReports(session_id="session-1", epoch=epoch, reports=((task.id, Reported("session-1", 1, Outcome.OK)),)),
        CancelTask(task_id=task.id, creator=None, reason="too late"),
    )
    assert granted[0].granted
    assert counted == (True,)
    assert late.status.state is State.SUCCEEDED
    (changes,) = fleet.changes
    assert [change.task.status.state for change in changes.tasks] == [State.COMMITTING, State.SUCCEEDED]
    assert [change.holder for change in changes.tasks] == [("session-1", 1)] * 2
    await check_histories(fleet)
    (attempt,) = await fleet.store.attempts(task.id)
    assert (attempt.granted_at, attempt.end) == (fleet.clock.now(), "OK")


async def test_attempts_are_kept_with_their_ends(fleet: StoreFleet) -> None:
    await fleet.session()
    await fleet.submit()
    for outcome in (Outcome.HANDED_BACK, Outcome.NOT_READY, Outcome.TRANSIENT):
        task = await fleet.claim_one()
        started = fleet.clock.now()
        fleet.clock.advance(1)
        error = Failure("TIMEOUT", "too slow", True) if outcome is Outcome.TRANSIENT else None
        await fleet.report(task, outcome, error=error)
        last = (await fleet.store.attempts(task.id, last=1))[0]
        assert (last.number, last.end, last.error) == (task.status.attempt, outcome.name, error)
        assert (last.started_at, last.ended_at) == (started, fleet.clock.now())
        assert (last.worker, last.session_id) == ("worker of session-1", "session-1")
        fleet.clock.advance(400)
        await fleet.tick()
    running = await fleet.claim_one()
    assert [each.number for each in await fleet.store.attempts(running.id)] == [1, 2, 3, 4]
    assert (await fleet.store.attempts(running.id))[-1].ended_at is None
    latest = await fleet.store.attempts_of([running.id, "0" * 26], last=2)
    assert [each.number for each in latest[running.id]] == [3, 4]


async def test_everything_survives_a_restart(open_store: OpenStore, clock: ManualClock) -> None:
    async with open_store(clock) as store:
        fleet = StoreFleet(store, clock)
        await fleet.session()
        await fleet.submit(plan(), plan(), plan(push("/b")), plan(push("/c"), not_before=9.0), plan(job()))
        task = await fleet.claim_one()
        await fleet.grant(task)
        tasks = await store.list_tasks(TaskFilter(), before=None, limit=9)
        history = await store.history(task.id, after=0)
        attempts = await store.attempts(task.id)
        sessions = await store.sessions()
        figures = await store.figures()
    async with open_store(clock) as store:
        assert await store.list_tasks(TaskFilter(), before=None, limit=9) == tasks
        assert await store.history(task.id, after=0) == history
        assert await store.attempts(task.id) == attempts
        assert await store.sessions() == sessions
        assert await store.figures() == figures
        again = StoreFleet(store, clock)
        reopened = await again.session(held=[(task.id, 1)])
        assert reopened.epoch == 2
        assert reopened.held == ((task.id, 1),)
        assert await again.report(task, Outcome.OK)
        await again.whole()


async def test_a_limited_tick_says_that_there_is_more(fleet: StoreFleet) -> None:
    tasks = await fleet.submit(*(plan(push(f"/{number}"), not_before=1.0 + number) for number in range(5)))
    fleet.clock.advance(10)
    ticked = await fleet.run(Tick(limit=2))
    assert (ticked.changed, ticked.more) == (2, True)
    assert await fleet.states(*tasks) == ["QUEUED", "QUEUED", "SCHEDULED", "SCHEDULED", "SCHEDULED"]
    while (ticked := await fleet.run(Tick(limit=2))).more:
        pass
    assert await fleet.states(*tasks) == ["QUEUED"] * 5
