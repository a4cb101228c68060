"""What the last commit left, besides tasks: so that a transaction asks for nothing that it knows.

Only for a database that nobody else writes to. Should somebody all the same, an operator's shell or a restored backup,
the database says so (SQLite: PRAGMA data_version), and everything is asked for anew. So it is after a transaction that
failed, and after each command that changes more than its tasks and their sums.
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
"""Counters, and sessions, that are remembered."""

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
"""They make, move and end tasks and uploads, and change nothing else that is remembered here."""


class RowMemory:
    """Belongs to the writer's thread. `tasks` goes with it."""

    def __init__(self) -> None:
        self.tasks = TaskCache()
        self.counters: dict[Key, int | None] = {}
        """None: there is no row."""
        self.sessions: dict[str, tuple[Session, bool]] = {}
        """And whether they are alive. Of the lease it says nothing: that is renewed."""
        self.paused: frozenset[str] | None = None
        self.last_seq: int | None = None
        self.holds = False
        """Sessions stay as they are in this transaction."""
        self._link: Link | None = None
        self._version = 0

    def begin(self, link: Link, batch: Sequence[Command[Any]]) -> None:
        """A transaction has begun that carries out these: forget what cannot be relied upon in it."""
        version = link.version()
        if link is not self._link or version != self._version:
            self.forget()
            self._link, self._version = link, version
        self.holds = all(type(command) in _HOT for command in batch)
        if not self.holds or len(self.counters) > MOST or len(self.sessions) > MOST:
            self._forget_all_but_tasks()

    def committed(self) -> None:
        """It is committed, and what it knew is here by now."""
        if not self.holds:
            self._forget_all_but_tasks()

    def forget(self) -> None:
        """Something went wrong."""
        self._link = None
        self.tasks.clear()
        self._forget_all_but_tasks()

    def _forget_all_but_tasks(self) -> None:
        self.counters.clear()
        self.sessions.clear()
        self.paused = self.last_seq = None
