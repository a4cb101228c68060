"""Group commit: commands that share a transaction do not share a fate; an unwritable database is nobody's fault."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import sqlite3
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from longshore.server.model.errors import NotFound, QueueFull, StoreOverloaded, StoreUnavailable
from longshore.server.model.values import State
from longshore.server.store import commands
from longshore.server.store.commands import Bounds, CancelTask, Command, DrainSession, PauseQueue, SubmitTasks
from longshore.server.store.postgres import connection as postgres_connection
from longshore.server.store.protocol import Changes, TaskFilter
from longshore.server.store.transaction import registry
from longshore.server.store.transaction.unit import UnitOfWork
from longshore.server.store.writer import writer
from tests.conformance.conftest import OpenStore
from tests.support.stores.store import ManualClock, StoreFleet, plan, push, submit
from tests.support.stores.storekinds import StoreKind
from tests.support.waiting import until


async def test_a_refused_command_fails_alone(fleet: StoreFleet) -> None:
    (task,) = await fleet.submit()
    refused, cancelled, full, made = await fleet.together(
        CancelTask(task_id="0" * 26, creator=None, reason=""),
        CancelTask(task_id=task.id, creator=None, reason=""),
        submit(request_id="full", bounds=Bounds(queue_tasks=0)),
        submit(request_id="made"),
    )
    assert isinstance(refused, NotFound)
    assert cancelled.status.state is State.CANCELLED
    assert isinstance(full, QueueFull)
    assert len(made) == 1
    assert len(await fleet.store.list_tasks(TaskFilter(), before=None, limit=9)) == 2


async def test_bounds_hold_within_a_group(fleet: StoreFleet) -> None:
    answers = await fleet.together(
        *(submit(request_id=f"r{number}", bounds=Bounds(queue_tasks=3)) for number in range(5))
    )
    assert [isinstance(answer, QueueFull) for answer in answers] == [False, False, False, True, True]
    answers = await fleet.together(
        CancelTask(task_id=answers[0][0].id, creator=None, reason=""),
        submit(request_id="r8", bounds=Bounds(queue_tasks=3)),
        submit(request_id="r9", bounds=Bounds(queue_tasks=3)),
    )
    assert [isinstance(answer, QueueFull) for answer in answers] == [False, False, True]


class Poison(Command[None]):
    """A command with a defect."""

    __slots__ = ()


class Liar(Command[None]):
    """A command that changes something and then refuses."""

    __slots__ = ()


def _poisoned(_unit: UnitOfWork, _command: Poison) -> registry.Answer:
    raise ZeroDivisionError("a defect")


def _lying(unit: UnitOfWork, _command: Liar) -> registry.Answer:
    for entry in unit.reads.tasks.load([1]):
        unit.decisions.add(entry.submission, entry.status)
    raise NotFound("no")


@pytest.fixture
def defects(monkeypatch: pytest.MonkeyPatch) -> None:
    for command, run in ((Poison, _poisoned), (Liar, _lying)):
        handler = registry.CommandHandler(run=run, prefetch=None, keeps_memory=True)
        monkeypatch.setitem(registry.HANDLERS, command, handler)


@pytest.mark.usefixtures("defects")
async def test_a_defect_fails_only_its_own_command(fleet: StoreFleet) -> None:
    for defect in (Poison(), Liar()):
        count = len(await fleet.store.list_tasks(TaskFilter(), before=None, limit=100))
        group: list[Command[Any]] = [submit(request_id=f"{type(defect)}{number}") for number in range(7)]
        group.insert(3, defect)
        answers = await fleet.together(*group)
        # Commands enter in the order of their urgency; the answers are in ours.
        assert isinstance(answers.pop(3), StoreUnavailable if count or isinstance(defect, Poison) else NotFound)
        assert all(len(made) == 1 for made in answers)
        assert len({made[0].submission.seq for made in answers}) == 7
        await fleet.whole()
    assert fleet.store.writable_since is not None


async def test_a_batch_that_meets_a_constraint_is_taken_apart(
    fleet: StoreFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(unit: UnitOfWork, command: PauseQueue) -> registry.Answer:
        unit.writes.move(("queue", command.queue), -1)
        return lambda: None

    monkeypatch.setitem(registry.HANDLERS, PauseQueue, replace(registry.HANDLERS[PauseQueue], run=broken))
    failed, made = await fleet.together(PauseQueue(queue="nowhere", paused=True), submit())
    assert isinstance(failed, StoreUnavailable), "counters are never negative"
    assert isinstance(failed.__cause__, (sqlite3.IntegrityError, psycopg.IntegrityError))
    assert len(made) == 1


async def test_a_row_changed_by_another_writer_is_read_again_and_never_overwritten(
    fleet: StoreFleet, kind: StoreKind
) -> None:
    await fleet.session()
    (task,) = await fleet.submit()
    kind.execute(f"UPDATE tasks SET revision = 9, tries = 3 WHERE id = '{task.id}'")
    taken = await fleet.claim_one()
    assert (taken.status.revision, taken.status.tries, taken.status.state) == (10, 3, State.RUNNING)


async def test_subscribers_hear_before_futures_resolve(fleet: StoreFleet) -> None:
    order: list[str] = []

    def hear(_changes: Changes) -> None:
        order.append("heard")

    stop = fleet.store.subscribe(hear)
    await fleet.submit()
    order.append("resolved")
    stop()
    await fleet.submit(plan(push("/b")))
    assert order == ["heard", "resolved"]


async def test_a_cancelled_await_takes_nothing_back(fleet: StoreFleet) -> None:
    waiting = asyncio.ensure_future(fleet.run(submit(request_id="r")))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    (task,) = await fleet.run(submit(request_id="r"))
    assert len(await fleet.store.list_tasks(TaskFilter(), before=None, limit=9)) == 1
    assert await fleet.now(task) == task


async def test_waiting_submits_are_bounded_in_number_and_bytes(
    fleet: StoreFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = fleet.store._writer
    monkeypatch.setattr(writer, "SUBMIT_COUNT", 3)
    with waiting._wake:
        futures = [waiting.submit(submit(request_id=f"r{number}")) for number in range(3)]
        with pytest.raises(StoreOverloaded):
            _ = waiting.submit(submit(request_id="r4"))
        futures.append(waiting.submit(CancelTask(task_id="0" * 26, creator=None, reason="")))
    await asyncio.gather(*futures, return_exceptions=True)
    monkeypatch.setattr(writer, "SUBMIT_COUNT", 100)
    monkeypatch.setattr(writer, "SUBMIT_BYTES", 5_000)
    with waiting._wake:
        futures = [waiting.submit(submit(request_id=f"s{number}")) for number in range(2)]
        with pytest.raises(StoreOverloaded):
            _ = waiting.submit(submit(request_id="s3"))
    await asyncio.gather(*futures)
    await fleet.submit()


async def test_close_commits_waiting_commands(open_store: OpenStore, clock: ManualClock) -> None:
    async with open_store(clock) as store:
        futures = [asyncio.ensure_future(store.run(submit(request_id=f"r{number}"))) for number in range(20)]
        await asyncio.sleep(0)
    assert all(len(made) == 1 for made in await asyncio.gather(*futures))
    with pytest.raises(StoreUnavailable):
        await store.run(submit())
    with pytest.raises(StoreUnavailable):
        await store.task("0" * 26)


# Outages --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken databases are tried often, and locked ones given up soon. To be asked for before the store is opened."""
    monkeypatch.setattr(writer, "PROBE_BROKEN", 0.05)
    monkeypatch.setattr(postgres_connection, "LOCK_TIMEOUT", 0.3)


async def test_a_locked_database_fails_commands_and_comes_back_by_itself(
    impatient: None, fleet: StoreFleet, kind: StoreKind
) -> None:
    await until(lambda: fleet.store.writable_since is not None)
    before = fleet.store.writable_since
    assert before == fleet.clock.ticks()
    (task,) = await fleet.submit()
    with kind.locked():
        fleet.clock.advance(10)
        answers = await fleet.together(submit(request_id="r"), DrainSession(session_id="nobody"))
        assert [type(answer) for answer in answers] == [StoreUnavailable] * 2
        assert fleet.store.writable_since is None
        assert await fleet.now(task) == task, "reading goes on"
    fleet.clock.advance(10)
    await until(lambda: fleet.store.writable_since is not None)
    assert fleet.store.writable_since == fleet.clock.ticks()
    assert len(await fleet.run(submit(request_id="r"))) == 1


async def test_an_idle_store_notices_that_writes_fail(
    impatient: None, fleet: StoreFleet, kind: StoreKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PROBE_IDLE", 0.05)
    await fleet.submit()
    with kind.locked():
        await until(lambda: fleet.store.writable_since is None)
    await until(lambda: fleet.store.writable_since is not None)


async def test_a_commit_that_took_too_long_was_an_outage(fleet: StoreFleet, kind: StoreKind) -> None:
    await until(lambda: fleet.store.writable_since is not None)
    began = fleet.store.writable_since
    with kind.locked():
        waiting = asyncio.ensure_future(fleet.run(submit()))
        await until(lambda: fleet.store._writer._busy_since is not None)
        fleet.clock.advance(writer.STALL + 1)
        assert fleet.store.writable_since is None
    await waiting
    assert fleet.store.writable_since != began
    assert fleet.store.writable_since == fleet.clock.ticks()


def test_every_command_has_a_handler() -> None:
    defined = {
        each
        for module in pkgutil.iter_modules(commands.__path__, f"{commands.__name__}.")
        for each in vars(importlib.import_module(module.name)).values()
        if isinstance(each, type) and issubclass(each, Command) and each is not Command
    }
    assert defined == set(registry.HANDLERS)
    assert SubmitTasks in defined


def test_a_command_without_a_handler_and_one_with_two_stop_the_server_from_starting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.check_complete()
    with pytest.raises(TypeError, match="SubmitTasks has two handlers"):
        registry.handles(SubmitTasks, prefetch=None, keeps_memory=True)(_poisoned)
    monkeypatch.delitem(registry.HANDLERS, SubmitTasks)
    with pytest.raises(TypeError, match="without a handler: SubmitTasks"):
        registry.check_complete()
