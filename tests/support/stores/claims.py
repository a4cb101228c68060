"""Tests of claims lose a session in one call, and read the paths of what was taken."""

from __future__ import annotations

from longshore.server.model.task import Task
from longshore.server.model.values import State
from longshore.server.store.commands import ReapSessions
from tests.support.stores.store import LEASE, StoreFleet, job, plan, push


def paths(tasks: list[Task]) -> list[str]:
    return [task.submission.work.destination.path for task in tasks]  # type: ignore[union-attr]


async def crash(fleet: StoreFleet, session: str) -> None:
    """The lease of `session` ends; the others are renewed by connecting again."""
    fleet.clock.advance(LEASE + 1)
    assert session in await fleet.run(ReapSessions())


async def settling(fleet: StoreFleet, session: str = "doomed", *, work: str = "file_push") -> Task:
    """A task whose worker was lost after its grant."""
    await fleet.session(session)
    await fleet.submit(plan(push() if work == "file_push" else job(work, target="default")))
    task = (await fleet.claim(session))[0]
    assert (await fleet.grant(task, session)).granted
    await crash(fleet, session)
    assert await fleet.state(task) is State.SETTLING
    return task
