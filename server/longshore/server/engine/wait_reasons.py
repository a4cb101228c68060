"""This module says why tasks wait now. It reads the store's conditions and the connections here, for a page at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final

from longshore.server.engine.sessions.connection import WorkerConnection
from longshore.server.engine.sessions.fleet import Fleet
from longshore.server.model.clock import Clock
from longshore.server.model.errors import StoreUnavailable
from longshore.server.model.remarks import Remark
from longshore.server.model.task import Session, Task
from longshore.server.model.values import WAITING, State, WaitReason
from longshore.server.model.waiting import Crew, Hindrance, View, Waiting, why
from longshore.server.store.protocol import Conditions, Holdings, InstanceKey, Store

RECENT: Final = 1.0
"""Seconds for which what was read counts as recent, where that is enough: in answers to submissions, of which there are
thousands a second."""
_VIEW_LASTS: Final = 0.05
_WAITS: Final = WAITING | {State.SETTLING}


class WaitReasons:
    """Reads why tasks wait with a bounded number of statements, however many tasks are asked about. Calls that come
    during a read share the next one. `instance_limit` and `target_limit` bound attempts at once. `emptying` gives the
    connections that finish what they hold, so that a task can run alone."""

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        clock: Clock,
        instance_limit: int,
        target_limit: int,
        emptying: Callable[[], Collection[WorkerConnection]] = tuple,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._clock = clock
        self._instance_limit = instance_limit
        self._target_limit = target_limit
        self._known: Conditions | None = None
        self._known_at = float("-inf")
        """When `_known` was asked for, in ticks."""
        self._view: View | None = None
        self._viewed: Conditions | None = None
        self._view_at = 0.0
        self._wanted: set[InstanceKey] = set()
        self._next: asyncio.Task[Conditions] | None = None
        """A read that has not begun: a call that comes now joins it."""
        self._now_reading: asyncio.Task[Conditions] | None = None
        self._emptying = emptying
        fleet.on_change(self.forget)

    def forget(self) -> None:
        """Forget what was read. It is not recent any more: a queue was paused, a worker came or went."""
        self._known = None

    async def of(self, tasks: Sequence[Task], *, recent: bool = False) -> dict[str, Waiting]:
        """Map the ids of those of `tasks` that wait to the reason. Raises StoreUnavailable. Safe to cancel.

        `recent` means that the answer is to something that is durable already. What was read up to `RECENT` seconds ago
        is good enough, and nothing is answered, and nothing raised, while the database cannot be read.
        """
        try:
            return await self._of(tasks, recent=recent)
        except StoreUnavailable:
            if not recent:
                raise
            return {}

    async def _of(self, tasks: Sequence[Task], *, recent: bool) -> dict[str, Waiting]:
        waiting = [task for task in tasks if task.status.state in _WAITS]
        if not waiting:
            return {}
        known = self._known
        if not recent or known is None or self._clock.ticks() - self._known_at > RECENT:
            instances = {_instance_of(task) for task in waiting if task.status.state is State.QUEUED}
            known = await self._read(instances)
            return self._explain(waiting, known, recent=recent)
        found = self._explain(waiting, known, recent=recent)
        # The number of tasks that run beside a task is of interest only where nothing else stands in its way.
        unsure = [task for task in waiting if found[task.id].reason is WaitReason.NEXT]
        missing = {_instance_of(task) for task in unsure if task.submission.work.instance} - known.on_instance.keys()
        if missing:
            found.update(self._explain(unsure, await self._read(missing), recent=recent))
        return found

    async def _read(self, instances: set[InstanceKey]) -> Conditions:
        """Read the conditions, in a read that begins from now on."""
        self._wanted |= instances
        if self._next is None:
            self._next = asyncio.create_task(self._take_turn(), name="wait reasons")
            # Those who asked may all be gone by the time it fails.
            self._next.add_done_callback(lambda done: done.cancelled() or done.exception())
        # Others wait for the same read.
        return await asyncio.shield(self._next)

    async def _take_turn(self) -> Conditions:
        if self._now_reading is not None:
            await asyncio.wait((self._now_reading,))
        self._now_reading, self._next = self._next, None
        wanted, self._wanted = frozenset(self._wanted), set()
        asked_at = self._clock.ticks()
        here = frozenset(connection.id for connection in self._fleet.connections())
        known = await self._store.conditions(wanted, but=here)
        self._known, self._known_at = known, asked_at
        return known

    def _explain(self, tasks: Sequence[Task], known: Conditions, *, recent: bool) -> dict[str, Waiting]:
        view = self._view_of(known, recent=recent)
        found: dict[str, Waiting] = {}
        for task in tasks:
            said = why(task, view, beside=known.on_instance.get(_instance_of(task)))
            if said is not None:
                found[task.id] = said
        return found

    def _view_of(self, known: Conditions, *, recent: bool) -> View:
        """Make the view of these conditions. A recent one is made twenty times a second at most: with 20 sessions it
        takes 50 µs, which is more than the rest of an answer's share of the work here."""
        ticks = self._clock.ticks()
        if recent and self._viewed is known and self._view is not None and ticks - self._view_at < _VIEW_LASTS:
            return self._view
        self._view = View(
            now=self._clock.now(),
            crews=self._crews(known),
            paused=known.paused,
            on_target=known.on_target,
            instance_limit=self._instance_limit,
            target_limit=self._target_limit,
            served=known.served,
            exclusive=known.exclusive,
        )
        self._viewed, self._view_at = known, ticks
        return self._view

    def _crews(self, known: Conditions) -> list[Crew]:
        emptying = {connection.id for connection in self._emptying()}
        crews = []
        for session in known.sessions:
            connection = self._fleet.connection(session.id)
            if connection is not None:
                crews.append(_connected(session, connection, emptying=session.id in emptying))
            else:
                held = known.held.get(session.id, Holdings())
                crews.append(_elsewhere(session, held, known.remarks.get(session.id)))
        return crews


def _instance_of(task: Task) -> InstanceKey:
    submission = task.submission
    return InstanceKey(submission.work.target, submission.work.project, submission.work.instance)


def _connected(session: Session, connection: WorkerConnection, *, emptying: bool) -> Crew:
    """Make the crew of a session whose connection is here, of what its worker said last."""
    hindrance = Hindrance.NONE
    if connection.draining or connection.leaving:
        hindrance = Hindrance.LEAVING
    elif connection.over:
        hindrance = Hindrance.AWAY
    elif emptying and connection.held:
        hindrance = Hindrance.EMPTYING
    return Crew(
        targets=frozenset(session.targets),
        kinds=session.kinds,
        room=max(connection.room, 0) if hindrance is Hindrance.NONE else 0,
        kept_for=connection.kept_for,
        held=len(connection.held),
        hindrance=hindrance,
        revision=connection.session.revision,
    )


def _elsewhere(session: Session, held: Holdings, remark: Remark | None) -> Crew:
    """Make the crew of a session on another server, of what is durable of it. A session that has not said how much it
    takes at once (its server is older) is believed to be full with what it holds."""
    hindrance = Hindrance.NONE
    if session.draining:
        hindrance = Hindrance.LEAVING
    elif not session.connected:
        hindrance = Hindrance.AWAY
    elif held.alone:
        hindrance = Hindrance.ALONE
    credits_ = remark.credits if remark is not None and remark.credits is not None else max(held.held, 1)
    return Crew(
        targets=frozenset(session.targets),
        kinds=session.kinds,
        room=max(credits_ - held.held, 0) if hindrance is Hindrance.NONE else 0,
        kept_for=frozenset(session.targets) - held.targets,
        held=held.held,
        hindrance=hindrance,
        revision=session.revision,
    )
