"""What a transaction asks of the caches in `store.memory`. None of them is needed: with None, everything is queried."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from longshore.server.model.task import Session
from longshore.server.store.transaction.counters import Key
from longshore.server.store.transaction.loaded_task import Entry


class RememberedTasks(Protocol):
    """Live tasks as the last commit left them."""

    def get(self, seq: int) -> Entry | None:
        """The task of that number; None where it is not remembered."""
        ...

    def committed(self, entries: Iterable[Entry]) -> None:
        """These are stored now, and belong to no transaction any more."""
        ...

    def clear(self) -> None:
        """Forget all of them."""
        ...


class Remembered(Protocol):
    """Rows as the last commit left them."""

    counters: dict[Key, int | None]
    """None means that the counter has no row."""
    sessions: dict[str, tuple[Session, bool]]
    """Each session, and whether it is alive."""
    paused: frozenset[str] | None
    """Paused queues; None means that they are not remembered."""
    last_seq: int | None
    """The last task number that was given away; None means that it is not remembered."""
    holds: bool
    """Sessions stay as they are in this transaction."""

    @property
    def tasks(self) -> RememberedTasks:
        """Tasks go with the rest."""
        ...

    def committed(self) -> None:
        """The transaction is committed, and what it knew is here by now."""
        ...


class ClaimPrecheck(Protocol):
    """Says beforehand whether a claim is worth its turn."""

    def met(self, session: Session) -> None:
        """A claim has met this session."""
        ...
