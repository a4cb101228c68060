"""The outbox keeps what is still to be told to one worker: bounded, coalesced, taken in as few messages as possible."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields
from itertools import islice
from operator import attrgetter
from typing import Final, TypeVar

from longshore.server.engine.sessions.messages import (
    Assignment,
    AttemptRef,
    CancelOrder,
    DebtOrder,
    ParkedInstances,
    ReportAck,
    Revocation,
    ServerSays,
    Welcome,
)
from longshore.server.model.task import Terms
from longshore.server.store.commands import BeginAnswer, GrantAnswer

BYTES_AT_ONCE: Final = 2 << 20
"""About the most bytes of all lists of one message; a worker takes 4 MiB. A list of 5,000 parked instances may have
2.4 MB: it goes with little else."""
LEAST_BYTES: Final = 1 << 18
"""Bytes that the other lists have beside one of parked instances in any case."""
ASSIGNMENTS_AT_ONCE: Final = 256
ASSIGNED_BYTES_AT_ONCE: Final = 1 << 20
"""About the most bytes of assignments in one message: a job may carry arguments of 64 KiB."""
OTHERS_AT_ONCE: Final = 4096
"""The most acknowledgements, grants, cancels and revocations in one message, of each."""
BULKY_AT_ONCE: Final = 32
"""The most debts in one message."""
_SMALL: Final = 128
"""The most bytes that an acknowledgement, a grant, a cancel, a begin or a revocation takes."""
_NAMES: Final = 480
"""The most bytes that an instance takes: a target, a project and an instance of up to 63 characters each. Those of a
project may have four bytes each."""

_K = TypeVar("_K")
_V = TypeVar("_V")


class Outbox:
    """Keeps entries for one worker. A newer one takes the place of an older one about the same thing. `len` counts all.

    Everything is put in synchronously by the engine and taken out by one writer, which awaits `ready`.
    """

    def __init__(self) -> None:
        self._bell = asyncio.Event()
        self._closed = False
        self._welcome: Welcome | None = None
        self._heartbeat: int | None = None
        self._assignments: dict[AttemptRef, Assignment] = {}
        self._begun: dict[AttemptRef, BeginAnswer] = {}
        self._grants: dict[AttemptRef, GrantAnswer] = {}
        self._cancels: dict[AttemptRef, CancelOrder] = {}
        self._revocations: dict[AttemptRef, Revocation] = {}
        self._acks: dict[AttemptRef, ReportAck] = {}
        self._parked: dict[str, ParkedInstances] = {}
        self._debts: dict[str, DebtOrder] = {}
        self._drain: str | None = None
        self._go_away: str | None = None

    def __len__(self) -> int:
        keyed = (
            self._assignments,
            self._begun,
            self._grants,
            self._cancels,
            self._revocations,
            self._acks,
            self._parked,
            self._debts,
        )
        single = (self._welcome, self._heartbeat, self._drain, self._go_away)
        return sum(len(each) for each in keyed) + sum(one is not None for one in single)

    @property
    def closed(self) -> bool:
        return self._closed

    # Putting in -----------------------------------------------------------------------------------------------------

    def welcome(self, welcome: Welcome) -> None:
        self._welcome = welcome
        self._bell.set()

    def heartbeat(self, sequence: int) -> None:
        self._heartbeat = max(sequence, self._heartbeat or 0)
        self._bell.set()

    def assign(self, assignment: Assignment) -> None:
        self._assignments[assignment.ref] = assignment
        self._bell.set()

    def begun(self, answer: BeginAnswer) -> None:
        self._begun[AttemptRef(answer.task_id, answer.attempt)] = answer
        self._bell.set()

    def grant(self, answer: GrantAnswer) -> None:
        self._grants[AttemptRef(answer.task_id, answer.attempt)] = answer
        self._bell.set()

    def cancel(self, order: CancelOrder) -> None:
        self._cancels[order.ref] = order
        self._bell.set()

    def revoke(self, revocation: Revocation) -> None:
        """Revoke an attempt. An assignment that is still here is taken back instead: the worker never hears of it."""
        ref = revocation.ref
        self._cancels.pop(ref, None)
        if self._assignments.pop(ref, None) is None:
            self._revocations[ref] = revocation
            self._bell.set()

    def ack(self, ack: ReportAck) -> None:
        self._acks[ack.ref] = ack
        self._bell.set()

    def parked(self, parked: ParkedInstances) -> None:
        self._parked[parked.target] = parked
        self._bell.set()

    def debt(self, order: DebtOrder) -> None:
        self._debts[order.debt_id] = order
        self._bell.set()

    def drain(self, reason: str) -> None:
        self._drain = reason
        self._bell.set()

    def go_away(self, reason: str) -> None:
        self._go_away = reason
        self._bell.set()

    def close(self) -> None:
        """Close the outbox. Entries that are in it may still be taken; then there is nothing more."""
        self._closed = True
        self._bell.set()

    # Taking out -----------------------------------------------------------------------------------------------------

    async def ready(self, more: Callable[[], bool] = lambda: True) -> bool:
        """Wait until there is something to take. False means that the outbox is closed, and nothing is left.

        `more` tells whether the same commit may bring answers, which are here one turn of the loop after the
        assignments and are to ride in the same message. A lone task's assignment waits for nothing.
        """
        while not len(self):
            if self._closed:
                return False
            self._bell.clear()
            await self._bell.wait()
        if more():
            await asyncio.sleep(0)
        return True

    def take(self) -> ServerSays:
        """Take the next message. Assignments go before cancels of the same attempts, which wait for the next one."""
        parked = _take(self._parked, 1)
        room = max(BYTES_AT_ONCE - sum(_NAMES * len(one.instances) for one in parked), LEAST_BYTES)
        assignments, size = self._take_assignments(min(room, ASSIGNED_BYTES_AT_ONCE))
        room -= size
        later: dict[AttemptRef, CancelOrder] = {}
        if self._cancels:
            assigned = {one.ref for one in assignments} | self._assignments.keys()
            later = {ref: self._cancels.pop(ref) for ref in assigned & self._cancels.keys()}
        # A fifth for each kind, so that a flood of one holds up no other.
        most = min(OTHERS_AT_ONCE, max(room, LEAST_BYTES) // (5 * _SMALL))
        says = ServerSays(
            welcome=self._welcome,
            heartbeat_ack=self._heartbeat,
            assignments=assignments,
            begun=_take(self._begun, most),
            grants=_take(self._grants, most),
            cancels=_take(self._cancels, most),
            revocations=_take(self._revocations, most),
            acks=_take(self._acks, most),
            parked=parked,
            debts=_take(self._debts, BULKY_AT_ONCE // 4 if parked else BULKY_AT_ONCE),
            drain=self._drain,
            go_away=self._go_away,
        )
        self._cancels.update(later)
        self._welcome = self._heartbeat = self._drain = self._go_away = None
        return says

    def _take_assignments(self, most_bytes: int) -> tuple[tuple[Assignment, ...], int]:
        """Take assignments, and answer with about how many bytes they take."""
        size = count = 0
        for one in self._assignments.values():
            more = _size(one)
            if count and (count == ASSIGNMENTS_AT_ONCE or size + more > most_bytes):
                break
            size += more
            count += 1
        return _take(self._assignments, count), size


def _take(entries: dict[_K, _V], count: int) -> tuple[_V, ...]:
    """Remove and return the oldest entries."""
    if len(entries) <= count:
        taken = tuple(entries.values())
        entries.clear()
        return taken
    return tuple(entries.pop(key) for key in tuple(islice(entries, count)))


_texts: Final = attrgetter(*(field.name for field in fields(Terms) if field.type == "str"))
"""The terms that are texts, of which there are several."""


def _size(assignment: Assignment) -> int:
    """About how many bytes it takes on the wire."""
    submission, status = assignment.task.submission, assignment.task.status
    terms = submission.terms
    size = 512 + len(assignment.content) + len("".join(_texts(terms)).encode())
    if terms.labels:
        size += sum(len(key) + len(value.encode()) + 8 for key, value in terms.labels.items())
    if (arguments := submission.work.arguments) is not None:
        size += len(arguments.value) + len(arguments.type_url.encode())
    if submission.destination is not None:
        size += len(submission.destination.key.encode("utf-8", "surrogateescape"))
    if status.error is not None:
        size += len(status.error.message.encode())
    if status.grant is not None:
        size += len(status.grant.temp.encode())
    return size + len(status.cancel_reason.encode())
