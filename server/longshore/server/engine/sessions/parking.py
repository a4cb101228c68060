"""This module wakes parked tasks: it asks one worker per target to watch the instances that they wait for."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from longshore.server.engine.sessions.connection import WorkerConnection
from longshore.server.engine.sessions.fleet import Fleet
from longshore.server.engine.sessions.messages import ParkedInstances, Ready
from longshore.server.model.errors import StoreUnavailable
from longshore.server.model.task import Destination, Task
from longshore.server.model.values import PARKED, State
from longshore.server.store.commands import WakeParked
from longshore.server.store.protocol import Changes, Store, what_targets_do

_log = structlog.get_logger("longshore.parking")

MOST_INSTANCES: Final = 5_000
"""Instances told of one target: the list must fit a message. Tasks of more are found by the worker's slow poll later,
when some of these are ready."""
GATHER: Final = 0.05
"""Seconds for which changes are gathered before a target's list is read again."""
LOOK_AGAIN: Final = 30.0
"""Seconds after which all lists are read again: another server's tasks, and expired ones."""
WAKE_AT_ONCE: Final = 500
"""Most tasks that one transaction wakes: signs of life wait behind it."""
_RETRY: Final = 1.0

_InstanceKey = tuple[str, str, str]


class Parking:
    """Elects one connected session per target, which has the full list; when it goes, another takes over.

    Runs until cancelled. Memory grows with the instances that are waited for, never with the tasks that wait.
    """

    def __init__(self, *, store: Store, fleet: Fleet, look_again: float = LOOK_AGAIN) -> None:
        self._store = store
        self._fleet = fleet
        self._look_again = look_again
        self._elected: dict[str, WorkerConnection] = {}
        self._told: dict[str, tuple[Destination, ...]] = {}
        self._listed: dict[str, frozenset[_InstanceKey]] = {}
        self._stale: set[str] = set()
        self._ready: dict[_InstanceKey, bool] = {}
        self._bell = asyncio.Event()
        self._unsubscribe = store.subscribe(self._on_commit, wants=what_targets_do)
        fleet.on_change(self._on_fleet)

    def _on_fleet(self) -> None:
        self._stale.update(self._fleet.targets())
        self._bell.set()

    def _on_commit(self, changes: Changes) -> None:
        for change in changes.tasks:
            task = change.task
            target = task.submission.target
            if target and target not in self._stale and (_is_parked(task) or self._was_waited_for(task)):
                self._stale.add(target)
                self._bell.set()

    def _was_waited_for(self, task: Task) -> bool:
        """Tell whether the task may have left the list. For which task an instance is listed is not remembered."""
        asked = task.submission.work
        return (asked.target, asked.project, asked.instance) in self._listed.get(asked.target, ())

    def ready(self, connection: WorkerConnection, ready: Ready) -> None:
        """Take in a worker's word that an instance is ready, or exists. It counts for targets only that the worker
        serves."""
        if ready.target not in connection.session.targets:
            return
        key = (ready.target, ready.project, ready.instance)
        self._ready[key] = self._ready.get(key, False) or ready.running
        self._bell.set()

    async def run(self) -> None:
        """Wake and tell until cancelled."""
        try:
            while True:
                try:
                    await self._wake()
                    await self._tell()
                except StoreUnavailable:
                    await asyncio.sleep(_RETRY)
                    continue
                await self._rest()
        finally:
            self._unsubscribe()

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._look_again):
                await self._bell.wait()
        except TimeoutError:
            self._stale.update(self._fleet.targets())
        self._bell.clear()
        if not self._ready:
            await asyncio.sleep(GATHER)

    async def _wake(self) -> None:
        while self._ready:
            key, running = next(iter(self._ready.items()))
            target, project, instance = key
            woken = await self._store.run(
                WakeParked(target=target, project=project, instance=instance, running=running, limit=WAKE_AT_ONCE)
            )
            now = self._ready.pop(key)
            if woken.more or now != running:
                self._ready[key] = now  # behind the others
            if woken.tasks:
                _log.info("parked_tasks_woken", target=target, project=project, instance=instance, tasks=woken.tasks)

    async def _tell(self) -> None:
        """Bring the lists of all targets that may have changed up to date."""
        while self._stale:
            target = self._stale.pop()
            before = self._elected.get(target)
            elected = self._elect(target)
            if elected is None:
                self._forget(target)
                continue
            try:
                parked = await self._store.parked(target)
            except StoreUnavailable:
                self._stale.add(target)
                raise
            instances = tuple(parked[:MOST_INSTANCES])
            if before is not elected and before is not None and not before.over and self._told.get(target):
                before.outbox.parked(ParkedInstances(target, ()))
            known = self._told.get(target, ()) if before is elected else ()
            if instances != known:
                elected.outbox.parked(ParkedInstances(target, instances))
            self._elected[target] = elected
            self._told[target] = instances
            self._listed[target] = frozenset((one.target, one.project, one.instance) for one in instances)

    def _elect(self, target: str) -> WorkerConnection | None:
        serving = self._fleet.serving(target)
        before = self._elected.get(target)
        if before in serving:
            return before
        return serving[0] if serving else None

    def _forget(self, target: str) -> None:
        self._elected.pop(target, None)
        self._told.pop(target, None)
        self._listed.pop(target, None)


def _is_parked(task: Task) -> bool:
    return task.status.state is State.SCHEDULED and task.status.wait_reason in PARKED
