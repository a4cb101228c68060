"""The rows that hold from one transaction to the next, as far as any do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from longshore.server.model.task import Session
from longshore.server.store.commands import Command
from longshore.server.store.sql.link import Link
from longshore.server.store.transaction.counters import Key
from longshore.server.store.transaction.known import Remembered
from longshore.server.store.transaction.loaded_tasks import LoadedTask


class Memory:
    """Remembers nothing: each transaction asks the database for all that it needs. Belongs to the writer's thread.

    The kinds that remember something are in `store.memory`, and only save queries. None in place of rows means that
    rows of that kind are never remembered.
    """

    tasks: Remembered[int, LoadedTask | None] | None = None
    """Live tasks. None as a value means that there is no such task."""
    counters: Remembered[Key, int | None] | None = None
    """The values of counters. None as a value means that the counter has no row."""
    sessions: Remembered[str, tuple[Session, bool] | None] | None = None
    """Each session, and whether it is alive."""
    paused: Remembered[str, frozenset[str]] | None = None
    numbers: Remembered[str, int] | None = None
    """The last task number that was given."""

    def __init__(self) -> None:
        self.counter_rows: set[Key] = set()
        """Counters that are known to have a row."""

    def nothing_to_claim(self, link: Link, batch: Sequence[Command[Any]], now: float) -> bool:
        """Whether the batch only claims, and would find nothing. Called outside a transaction."""
        del link, batch, now
        return False

    def begin(self, link: Link, batch: Sequence[Command[Any]]) -> None:
        """Forget what cannot be relied upon in the transaction that now begins and carries out `batch`."""
        del link, batch
        self.counter_rows = set()

    def claims_for(self, session: Session) -> None:
        """Note that a claim is made for this session."""

    def committed(self, results: Iterable[object]) -> None:
        """The transaction is committed, and has left here what it knows. `results` are those of its commands."""

    def forget(self) -> None:
        """Forget everything, after something went wrong."""
