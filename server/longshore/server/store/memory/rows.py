"""Caches rows other than tasks that earlier transactions read or wrote, so that the next one need not query them.

The cache is used only for a database that nobody else writes to. If somebody does so all the same, from an operator's
shell or by restoring a backup, the database says so (SQLite: PRAGMA data_version), and everything is read anew.
Everything is also read anew after a transaction that failed, and after each command that changes more than its tasks
and their sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from longshore.server.model.task import Session
from longshore.server.store import commands
from longshore.server.store.commands import Command
from longshore.server.store.memory.tasks import TaskCache
from longshore.server.store.sql.link import Link
from longshore.server.store.transaction.counters import Key

MOST: Final = 20_000
"""How many counters, and how many sessions, are remembered at most."""

_HOT: Final[frozenset[type[Command[Any]]]] = frozenset(
    {
        commands.SubmitTasks,
        commands.ClaimTasks,
        commands.BeginAttempts,
        commands.RequestGrants,
        commands.FileReports,
        commands.CancelTask,
        commands.RenewLeases,
        commands.OpenUpload,
        commands.Checkpoint,
        commands.FinishUpload,
    }
)
"""These commands make, move and end tasks and uploads, and change nothing else that is remembered here."""


class RowMemory:
    """Remembers rows from one transaction to the next, and tasks in `tasks`. Belongs to the writer's thread."""

    def __init__(self) -> None:
        self.tasks = TaskCache()
        self.counters: dict[Key, int | None] = {}
        """The values of counters. None means that the counter has no row."""
        self.sessions: dict[str, tuple[Session, bool]] = {}
        """Sessions by id, and whether they are alive. Their leases are old, because renewals are not kept here."""
        self.paused: frozenset[str] | None = None
        self.last_seq: int | None = None
        self.keeps_memory = False
        """Whether this transaction leaves sessions as they are."""
        self._link: Link | None = None
        self._version = 0

    def begin(self, link: Link, batch: Sequence[Command[Any]]) -> None:
        """Forget what cannot be relied upon in the transaction that now begins and carries out `batch`."""
        version = link.version()
        if link is not self._link or version != self._version:
            self.forget()
            self._link, self._version = link, version
        self.keeps_memory = all(type(command) in _HOT for command in batch)
        if not self.keeps_memory or len(self.counters) > MOST or len(self.sessions) > MOST:
            self._forget_all_but_tasks()

    def committed(self) -> None:
        """The transaction is committed, and has stored here what it knows."""
        if not self.keeps_memory:
            self._forget_all_but_tasks()

    def forget(self) -> None:
        """Forget everything, after something went wrong."""
        self._link = None
        self.tasks.clear()
        self._forget_all_but_tasks()

    def _forget_all_but_tasks(self) -> None:
        self.counters.clear()
        self.sessions.clear()
        self.paused = self.last_seq = None
