"""Lists of tasks and attempts: filters, pages, what others may see, and figures."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from longshore.server.model.task import AnyValue, Job, Task
from longshore.server.model.values import Outcome, State
from longshore.server.store.protocol import TaskFilter, TaskPage
from longshore.server.store.reads import lists
from tests.support.stores.store import StoreFleet, job, plan, push


async def test_lists_are_newest_first_in_pages(fleet: StoreFleet) -> None:
    tasks = await fleet.submit(*(plan(push(f"/{number}")) for number in range(5)))
    newest = [task.id for task in reversed(tasks)]
    page = await fleet.store.list_tasks(TaskFilter(), before=None, limit=2)
    assert [task.id for task in page] == newest[:2]
    page = await fleet.store.list_tasks(TaskFilter(), before=page[-1].submission.seq, limit=9)
    assert [task.id for task in page] == newest[2:]


async def test_every_filter(fleet: StoreFleet) -> None:
    (first,) = await fleet.submit(plan(push(), labels={"app": "shop", "tier": "1"}), request_id="first")
    fleet.clock.advance(10)
    (second,) = await fleet.submit(
        plan(job(target="other", instance="db1"), queue="q", labels={"app": "shop"}),
        principal="bob",
        request_id="second",
    )
    await fleet.cancel(second)
    middle = fleet.clock.now() - 5
    only_first = (
        TaskFilter(states=frozenset({State.QUEUED, State.BLOCKED})),
        TaskFilter(kinds=frozenset({"file_push", "none"})),
        TaskFilter(queue="default"),
        TaskFilter(target="default"),
        TaskFilter(instance="web1"),
        TaskFilter(labels={"app": "shop", "tier": "1"}),
        TaskFilter(created_before=middle),
        TaskFilter(request_id="first"),
        TaskFilter(creator="alice"),
    )
    only_second = (
        TaskFilter(states=frozenset({State.CANCELLED, State.RUNNING})),
        TaskFilter(kinds=frozenset({"report"})),
        TaskFilter(queue="q"),
        TaskFilter(target="other", instance="db1"),
        TaskFilter(created_after=middle),
        TaskFilter(request_id="second", creator="bob"),
    )
    for where in only_first:
        assert [task.id for task in await fleet.store.list_tasks(where, before=None, limit=9)] == [first.id], where
    for where in only_second:
        assert [task.id for task in await fleet.store.list_tasks(where, before=None, limit=9)] == [second.id], where
    for where in (
        TaskFilter(labels={"app": "shop", "tier": "2"}),
        TaskFilter(request_id="first", creator="bob"),
        TaskFilter(states=frozenset({State.EXPIRED})),
    ):
        assert not await fleet.store.list_tasks(where, before=None, limit=9)


async def test_tasks_are_found_by_the_beginning_of_their_id(fleet: StoreFleet) -> None:
    tasks = list(reversed(await fleet.submit(*(plan(push(f"/{number}")) for number in range(70)))))

    async def found(prefix: str, *, before: int | None = None, limit: int = 1000, **more: Any) -> list[str]:
        where = TaskFilter(id_prefix=prefix, **more)
        return [task.id for task in await fleet.store.list_tasks(where, before=before, limit=limit)]

    for prefix in ("1", "2", "01", "12", "0000000011", "0", tasks[0].id, tasks[0].id.lstrip("0")[:9], "Z", "U", "-"):
        wanted = [task.id for task in tasks if begins(task.id, prefix)]
        assert await found(prefix) == wanted, prefix
        assert await found(prefix, limit=3) == wanted[:3], prefix
        if len(wanted) > 3:
            third = next(task.submission.seq for task in tasks if task.id == wanted[2])
            assert await found(prefix, before=third) == wanted[3:], prefix
    assert len(await found("1")) == 33, "one short number, and thirty-two long ones"
    assert await found("1", creator="bob") == []


def begins(task_id: str, prefix: str) -> bool:
    """The slow way: with as many zeros as there may be before it; nothing but zeros stand for themselves."""
    zeros = range(27) if prefix.strip("0") else range(1)
    return any(task_id.startswith("0" * number + prefix) for number in zeros)


async def test_others_tasks_read_as_none(fleet: StoreFleet) -> None:
    (task,) = await fleet.submit()
    assert await fleet.store.task(task.id, creator="alice") == task
    assert await fleet.store.task(task.id, creator="bob") is None
    for wrong in ("", "nonsense", "0" * 26, "U" * 26, task.id.lower()):
        assert await fleet.store.task(wrong) is None


async def test_figures(fleet: StoreFleet) -> None:
    await fleet.session()
    await fleet.submit(plan(), plan(), plan(push("/b")), plan(push("/c"), not_before=9.0), plan(job(), queue="q"))
    started = fleet.clock.now()
    fleet.clock.advance(5)
    (running,) = await fleet.submit(plan(push("/first"), priority=50))
    assert (await fleet.claim_one()).id == running.id
    figures = await fleet.store.figures()
    default, other = figures.queues
    assert (default.queue, default.paused, default.oldest_queued) == ("default", False, started)
    assert dict(default.live) == {State.QUEUED: 2, State.BLOCKED: 1, State.SCHEDULED: 1, State.RUNNING: 1}
    assert (other.queue, dict(other.live)) == ("q", {State.QUEUED: 1})
    (target,) = figures.targets
    assert (target.target, target.queued, target.running, target.parked, target.debts) == ("default", 2, 1, 0, 0)
    assert figures.queued_kinds == {"file_push", "report"}


async def test_a_page_is_bounded_in_bytes_and_the_next_page_continues(fleet: StoreFleet) -> None:
    large = AnyValue("t", bytes(1000))
    made = [(await fleet.submit(plan(Job("report", large), queue="q")))[0] for _ in range(10)]
    (other,) = await fleet.submit(plan(Job("report", large)))
    newest_first = [task.id for task in reversed(made)]
    where, found, before = TaskFilter(queue="q"), [], None
    for _ in range(10):
        page = await fleet.store.list_tasks(where, before=before, limit=100, most_bytes=3500)
        assert 1 <= len(page) <= 3
        found += [task.id for task in page]
        before = page[-1].submission.seq
        if not page.more:
            break
    assert found == newest_first
    assert page[-1] == made[0]
    # One is always there, however large, and what fits is not cut.
    alone = await fleet.store.list_tasks(TaskFilter(), before=None, limit=100, most_bytes=1)
    assert ([task.id for task in alone], alone.more) == ([other.id], True)
    whole = await fleet.store.list_tasks(where, before=None, limit=10, most_bytes=1 << 20)
    assert (len(whole), whole.more) == (10, False)
    counted = await fleet.store.list_tasks(where, before=None, limit=9)
    assert (len(counted), counted.more) == (9, True)


async def test_attempts_are_read_from_a_number_on(fleet: StoreFleet) -> None:
    await fleet.session()
    (task,) = await fleet.submit(plan(job()))
    for _ in range(4):
        assert await fleet.report(await fleet.claim_one(), Outcome.HANDED_BACK)
    numbers = [each.number for each in await fleet.store.attempts_after(task.id, number=1, limit=2)]
    assert numbers == [2, 3]
    assert [each.number for each in await fleet.store.attempts_after(task.id, number=3, limit=9)] == [4]
    assert not await fleet.store.attempts_after("nonsense", number=0, limit=9)


async def test_a_page_ends_after_so_many_tasks_and_the_next_one_goes_on(
    fleet: StoreFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("LOOKED_AT", 8), ("_FEW", 1), ("_FIRST_STEP", 4)):
        monkeypatch.setattr(lists, name, value)
    made: list[Task] = []
    for number in range(36):
        terms: dict[str, Any] = {"queue": "q" if number % 2 else "default", "labels": {"third": f"{number % 3}"}}
        work = job() if number % 5 == 0 else push(f"/{number}")
        made += await fleet.submit(plan(work, **terms), principal="bob" if number % 7 == 0 else "alice")
    for task in made[6:18]:
        await fleet.cancel(task)
    made = [await stored(fleet, task) for task in made]
    for where in pairs():
        wanted = [task.id for task in reversed(made) if fulfils(task, where)]
        pages = [page async for page in all_pages(fleet, where)]
        assert [task.id for page in pages for task in page] == wanted, where
        assert len(pages) < 60
        assert not pages[-1].more
    none = [len(page) async for page in all_pages(fleet, TaskFilter(creator="alice", created_before=0.0))]
    assert len(none) > 2, "a page may be empty and yet have a next one"
    assert sum(none) == 0


async def stored(fleet: StoreFleet, task: Task) -> Task:
    now = await fleet.store.task(task.id)
    assert now is not None
    return now


async def all_pages(fleet: StoreFleet, where: TaskFilter) -> AsyncIterator[TaskPage]:
    before: int | None = None
    while True:
        page = await fleet.store.list_tasks(where, before=before, limit=3)
        yield page
        if page.resume is None:
            return
        assert before is None or page.resume < before
        before = page.resume


def pairs() -> Iterator[TaskFilter]:
    """Each filter with each other one, and alone."""
    single: list[dict[str, Any]] = [
        {},
        {"states": frozenset({State.CANCELLED})},
        {"states": frozenset({State.CANCELLED, State.QUEUED})},
        {"kinds": frozenset({"report", "file_push"})},
        {"kinds": frozenset({"report"})},
        {"queue": "q"},
        {"target": "default"},
        {"instance": "web1"},
        {"labels": {"third": "1"}},
        {"creator": "bob"},
        {"id_prefix": "0"},
    ]
    for one, other in itertools.combinations_with_replacement(single, 2):
        yield TaskFilter(**{**one, **other})


def fulfils(task: Task, where: TaskFilter) -> bool:
    """The slow way."""
    submission = task.submission
    return (
        (not where.states or task.status.state in where.states)
        and (not where.kinds or submission.kind in where.kinds)
        and (not where.queue or submission.terms.queue == where.queue)
        and (not where.target or submission.work.target == where.target)
        and (not where.instance or submission.work.instance == where.instance)
        and (not where.labels or where.labels.items() <= submission.terms.labels.items())
        and (not where.creator or submission.creator == where.creator)
    )
