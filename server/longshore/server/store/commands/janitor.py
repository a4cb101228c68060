"""Commands of the janitor: what is due, what is over, and what nothing needs any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from longshore.server.store.commands.base import Command, Urgency


@dataclass(frozen=True, slots=True, kw_only=True)
class PayDebt(Command[None]):
    """Pay a debt: its temps are gone. A debt whose temp is not known is asked for once more after `again` seconds: the
    lost worker might have been asleep and made it later. Until then the debt cannot be paid: several servers may ask
    for it at once.

    `paid` false means that the temps could not be removed now. The debt is asked for again after `again` seconds, and
    until then makes way for others of its target.
    """

    urgency: ClassVar[Urgency] = Urgency.MAINTENANCE
    debt_id: str
    again: float = 600.0
    paid: bool = True


@dataclass(frozen=True, slots=True)
class Ticked:
    """The answer to Tick: how many tasks `changed`, and `more` if the limit was reached. `next_at` is the wall clock of
    the next due or expiring task, if any."""

    changed: int
    more: bool
    next_at: float | None
    next_ticks: float | None
    """The next attempt's deadline on the lease clock, if any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick(Command[Ticked]):
    """Carry out what time has made due: due tasks, expired tasks, attempts over their deadline. At most `limit` of
    each."""

    limit: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFollowers(Command[None]):
    """Tell the tasks that come after `ended` (numbers of tasks) that these have ended, or that their history is
    removed. Nothing happens for tasks that live.

    The transaction that ends a task tells the first followers, and the writer runs this command for the rest."""

    ended: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReapSessions(Command[tuple[str, ...]]):
    """End sessions whose lease is over; their attempts are lost. Answers with their ids.

    The caller runs it only when the store has been writable for a full lease, and says with `before` (ticks) when it
    saw that: what ended later is left for the next time. None means every lease that is over when the command is
    carried out.
    """

    limit: int = 50
    before: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendLeases(Command[None]):
    """Start every lease and deadline anew from now, at a server's start. (After a reboot old ticks mean nothing.)"""

    lease: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DoomPayloads(Command[tuple[str, ...]]):
    """Mark the payloads that nothing needs any more, so that no task can be made from them; the answer has every marked
    one. Nothing needs a payload when every task succeeded, or all are past `retryable_until`. `free` is how many bytes
    to free by evicting retryable ones too, the oldest first.

    With a `spool` (its identity) only payloads that are there, or in the database, are evicted and answered: the rest
    is for the servers that have it.
    """

    urgency: ClassVar[Urgency] = Urgency.MAINTENANCE
    limit: int = 500
    free: int = 0
    spool: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetPayloads(Command[None]):
    """Drop doomed payloads whose bytes are gone, and their reservation of spool bytes; with `homes` their homes too."""

    urgency: ClassVar[Urgency] = Urgency.MAINTENANCE
    payload_ids: tuple[str, ...]
    homes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeTasks(Command[int]):
    """Drop requests all of whose tasks ended more than `age` seconds ago, with tasks, attempts, events. Answers how
    many tasks."""

    urgency: ClassVar[Urgency] = Urgency.MAINTENANCE
    age: float
    limit: int = 500
