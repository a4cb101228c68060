"""The interfaces of the caches in `store.memory`. A transaction needs none of them: without, everything is queried."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from longshore.server.model.task import Session
from longshore.server.store.transaction.counters import Key
from longshore.server.store.transaction.loaded_task import LoadedTask


class TaskMemory(Protocol):
    """Live tasks as the last commit left them."""

    def get(self, seq: int) -> LoadedTask | None:
        """The task of that number. None means that it is not remembered."""
        ...

    def committed(self, loaded_tasks: Iterable[LoadedTask]) -> None:
        """Keep these tasks: they are stored now, and belong to no transaction any more."""
        ...

    def clear(self) -> None:
        """Forget all of them."""
        ...


class Memory(Protocol):
    """Rows as the last commit left them."""

    counters: dict[Key, int | None]
    """The values of counters. None means that the counter has no row."""
    sessions: dict[str, tuple[Session, bool]]
    """Each session, and whether it is alive."""
    paused: frozenset[str] | None
    """Paused queues; None means that they are not remembered."""
    last_seq: int | None
    """The last task number that was given away; None means that it is not remembered."""
    keeps_memory: bool
    """Whether this transaction leaves sessions as they are."""

    @property
    def tasks(self) -> TaskMemory:
        """The cache of tasks, which goes with the rest."""
        ...

    def committed(self) -> None:
        """The transaction is committed, and has stored here what it knows."""
        ...


class ClaimPrecheck(Protocol):
    """Tells beforehand whether a claim is worth its turn."""

    def add_session(self, session: Session) -> None:
        """Remember a session for which a claim was made."""
        ...
