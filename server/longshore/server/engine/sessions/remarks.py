"""A remark is what a worker says of itself beside its work. It is kept here, logged when it changes, and made durable
for the other servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import structlog

from longshore.server.engine.sessions.connection import WorkerConnection
from longshore.server.model.clock import Clock
from longshore.server.model.errors import StoreUnavailable
from longshore.server.model.remarks import Problem
from longshore.server.model.task import Failure
from longshore.server.store.commands import NoteRemark
from longshore.server.store.protocol import Store

_log = structlog.get_logger("longshore.sessions")


class Remarks:
    """Keeps and logs the remarks of workers. `credits` means that other servers want to know how much a session takes.
    `pause` is the seconds between two tries while the store cannot be written."""

    def __init__(self, *, store: Store, clock: Clock, credits: bool, pause: float) -> None:
        self._store = store
        self._clock = clock
        self._credits = credits
        self._pause = pause
        self._on_passed: list[Callable[[str], None]] = []

    def on_passed(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the name of a target that a worker can use again."""
        self._on_passed.append(listener)

    def heard(self, connection: WorkerConnection, conditions: Iterable[tuple[str, Failure | None]]) -> None:
        """Take in how a worker finds targets. Targets that it does not serve are left out."""
        for target, failure in conditions:
            if target not in connection.session.targets:
                continue
            known = connection.problems.get(target)
            if failure is None:
                if known is not None:
                    del connection.problems[target]
                    _log.info(
                        "target_usable", target=target, session_id=connection.id, worker=connection.session.worker
                    )
                    for listener in self._on_passed:
                        listener(target)
            elif known is None or (known.reason, known.message) != (failure.reason, failure.message):
                since = self._clock.now() if known is None else known.since
                connection.problems[target] = Problem(failure.reason, failure.message, since)
                _log.warning(
                    "target_unusable",
                    target=target,
                    session_id=connection.id,
                    worker=connection.session.worker,
                    reason=failure.reason,
                    error=failure.message,
                )

    def note(self, connection: WorkerConnection, later: Callable[..., None]) -> None:
        """Make durable what is new, in a task that `later` looks after."""
        if connection.noting or not self._is_news(connection):
            return
        connection.noting = True
        work: Coroutine[Any, Any, None] = self._note(connection)
        later(work, name=f"remark {connection.id}")

    def _is_news(self, connection: WorkerConnection) -> bool:
        noted = connection.noted
        if noted is None:
            return self._credits or bool(connection.problems)
        return noted.problems != connection.problems or (self._credits and noted.credits != connection.credits)

    async def _note(self, connection: WorkerConnection) -> None:
        try:
            while self._is_news(connection) and not connection.over:
                remark = connection.remark
                try:
                    await self._store.run(NoteRemark(session_id=connection.id, epoch=connection.epoch, remark=remark))
                except StoreUnavailable:
                    await asyncio.sleep(self._pause)
                else:
                    connection.noted = remark
        finally:
            connection.noting = False
