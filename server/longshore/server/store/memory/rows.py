"""This module remembers rows that earlier transactions read or wrote, so that the next one need not query them.

The memory is for a database that no other program writes to. If one does so all the same, from an operator's shell or
by restoring a backup, the database says so (SQLite: PRAGMA data_version), and everything is read anew. Everything is
also read anew after a transaction that failed, and after each command that changes more than its tasks and their sums
(`keeps_memory` of its handler).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from longshore.server.model.task import Session
from longshore.server.store.commands import Command
from longshore.server.store.memory.tasks import TaskCache
from longshore.server.store.sql.link import Link
from longshore.server.store.transaction.counters import Key
from longshore.server.store.transaction.memory import Memory
from longshore.server.store.transaction.registry import HANDLERS

MOST: Final = 20_000
"""The most counters, and the most sessions, that are remembered."""


class RowMemory(Memory):
    """Remembers rows from one transaction to the next, and tasks in `tasks`."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks = self.tasks = TaskCache()
        self.counters: dict[Key, int | None] = {}
        self.sessions: dict[str, tuple[Session, bool] | None] = {}
        self.paused: dict[str, frozenset[str]] = {}
        self.numbers: dict[str, int] = {}
        self._keeps = False
        """Tells whether this transaction leaves all rows but tasks and counters as they are."""
        self._link: Link | None = None
        self._version = 0

    def begin(self, link: Link, batch: Sequence[Command[Any]]) -> None:
        version = link.version()
        if link is not self._link or version != self._version:
            self.forget()
            self._link, self._version = link, version
        self._keeps = all(HANDLERS[type(command)].keeps_memory for command in batch)
        if not self._keeps or len(self.counters) > MOST or len(self.sessions) > MOST:
            self._forget_all_but_tasks()

    def committed(self, results: Iterable[object]) -> None:
        del results
        if not self._keeps:
            self._forget_all_but_tasks()

    def forget(self) -> None:
        self._link = None
        self.counter_rows.clear()
        self._tasks.clear()
        self._forget_all_but_tasks()

    def _forget_all_but_tasks(self) -> None:
        self.counters.clear()
        self.sessions.clear()
        self.paused.clear()
        self.numbers.clear()
