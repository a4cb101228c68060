"""This module reads what a transaction must know from the database, in as few round trips as possible."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from longshore.server.model.clock import Clock
from longshore.server.model.records import record
from longshore.server.model.task import Session
from longshore.server.store.errors import BatchConflict
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Among, Each, Statement, statement
from longshore.server.store.tables.rows import SESSION_COLUMNS, UPLOAD_COLUMNS, Row, session_of
from longshore.server.store.tables.schema import (
    has_unmet,
    is_head,
    is_live,
    queues,
    requests,
    sequence,
    sessions,
    tasks,
    uploads,
)
from longshore.server.store.transaction.counters import Counters
from longshore.server.store.transaction.known import Found, Known
from longshore.server.store.transaction.loaded_tasks import LoadedTasks
from longshore.server.store.transaction.memory import Memory

_HEADED: Final = Among(
    lambda keys: sa.union_all(
        sa.select(tasks.c.destination_key).where(
            tasks.c.destination_key.in_(keys), is_head, tasks.c.destination_key.is_not(None)
        ),
        sa.select(tasks.c.destination_key).where(tasks.c.destination_key.in_(keys), has_unmet),
    )
)
"""Finds destinations with live tasks. The earliest one is head, unless it comes after other tasks."""
_OCCUPIED: Final = statement(
    sa.select(sa.literal_column("1")).where(tasks.c.destination_key == sa.bindparam("key"), is_live).limit(1)
)
_PAUSED: Final = statement(sa.select(queues.c.name).where(queues.c.paused.is_(sa.true())))
_LAST_SEQ: Final = Statement(
    lambda dialect: dialect.for_update(sa.select(sequence.c.value).where(sequence.c.name == "tasks"))
)
_REQUESTS: Final = Among(
    lambda keys: (
        sa.select(
            requests.c.principal,
            requests.c.request_id,
            requests.c.fingerprint,
            requests.c.upload_id,
            requests.c.first_seq,
            requests.c.count,
        )
        .where(requests.c.request_id.in_(keys))
        .order_by(requests.c.request_id, requests.c.principal)
    ),
    lock=True,
)
_SESSIONS: Final = Among(
    lambda keys: (
        sa.select(*SESSION_COLUMNS, sessions.c.ended_at).where(sessions.c.id.in_(keys)).order_by(sessions.c.id)
    ),
    lock=True,
)
_HELD: Final = Each(
    lambda given: sa.select(tasks.c.seq, tasks.c.state, tasks.c.alone).where(tasks.c.session_id == given["session_id"]),
    {"session_id": sa.Text},
)
_UPLOADS: Final = Among(
    lambda keys: sa.select(*UPLOAD_COLUMNS).where(uploads.c.id.in_(keys)).order_by(uploads.c.id), lock=True
)
_ALL: Final = ""
"""The only key of the paused queues, which one question names all."""
_TASKS: Final = "tasks"
"""The name of the row that has the last task number."""


@record
class RequestRecord:
    """A request that was recorded before, and the numbers of its tasks."""

    fingerprint: str
    upload_id: str | None
    first_seq: int | None = None
    count: int = 0

    @property
    def seqs(self) -> range:
        return range(0) if self.first_seq is None else range(self.first_seq, self.first_seq + self.count)


class Reads:
    """The rows that one transaction has read. The clock is read once, when the transaction has its turn."""

    def __init__(self, *, link: Link, clock: Clock, memory: Memory) -> None:
        self.link = link
        self._clock = clock
        self._time: tuple[float, float] | None = None
        self._decides = False
        self.makes_tasks = False
        """Tells whether a command of the batch makes tasks."""
        self.tasks = LoadedTasks(link, memory.tasks)
        self.counters = Counters(link, memory.counter_rows, memory.counters)
        self.requests: Known[tuple[str, str], RequestRecord | None] = Known(self._ask_requests, absent=None)
        """Requests by (principal, request id). None means that there is no such request."""
        self.sessions: Known[str, tuple[Session, bool] | None] = Known(
            self._ask_sessions, absent=None, memory=memory.sessions
        )
        """Sessions by id, without what they hold, and whether they are alive. A remembered session has an old lease,
        because renewals are not remembered."""
        self.stored_attempts: Known[str, list[Row]] = Known(self._ask_held, absent=[])
        """What sessions hold (number, state, whether it runs alone) by their ids, as far as the database knows it."""
        self.uploads: Known[str, Row | None] = Known(self._ask_uploads, absent=None)
        """Rows of uploads by id."""
        self.occupied: Known[bytes, bool] = Known(self._ask_occupied, absent=False)
        """Tells whether a live task has the destination of this key."""
        self._paused: Known[str, frozenset[str]] = Known(self._ask_paused, absent=frozenset(), memory=memory.paused)
        self._numbers: Known[str, int] = Known(self._ask_last_seq, absent=-1, memory=memory.numbers)

    # The clock ----------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return (self._time or self._read_clock())[0]

    @property
    def ticks(self) -> float:
        return (self._time or self._read_clock())[1]

    def _read_clock(self) -> tuple[float, float]:
        if self._time is None:
            # The clock may be the database's, which tells the time when it gives the turn.
            self.link.sync()
            self._time = (self._clock.now(), self._clock.ticks())
        return self._time

    # Ahead of the decisions ---------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask for everything that the batch named, with one question for each kind, before anything is decided."""
        if self.makes_tasks:
            self._numbers.wanted.add(_TASKS)
        if self.makes_tasks or self.tasks.wanted:
            self._paused.wanted.add(_ALL)
        if self.tasks.wanted:
            self.tasks.ask()
        if self.counters.wanted:
            self.counters.ask()
        known: Known[Any, Any]
        for known in (
            self.requests,
            self.occupied,
            self.sessions,
            self.stored_attempts,
            self.uploads,
            self._numbers,
            self._paused,
        ):
            if known.wanted:
                known.ask()
        self._decides = True

    # Questions ----------------------------------------------------------------------------------------------------

    def _ask_requests(self, keys: list[tuple[str, str]]) -> Found[tuple[str, str], RequestRecord | None]:
        found = self.link.ask_among(_REQUESTS, sorted({request_id for _, request_id in keys}))
        return lambda: [((row[0], row[1]), RequestRecord(*row[2:])) for row in found.rows()]

    def _ask_sessions(self, ids: list[str]) -> Found[str, tuple[Session, bool] | None]:
        found = self.link.ask_among(_SESSIONS, ids)
        return lambda: [(row[0], (session_of(row[:-1]), row[-1] is None)) for row in found.rows()]

    def _ask_held(self, ids: list[str]) -> Found[str, list[Row]]:
        found = self.link.ask_each(_HELD, [(each,) for each in ids])
        return lambda: zip(ids, found(), strict=True)

    def _ask_uploads(self, ids: list[str]) -> Found[str, Row | None]:
        found = self.link.ask_among(_UPLOADS, ids)
        return lambda: [(row[0], row) for row in found.rows()]

    def _ask_occupied(self, keys: list[bytes]) -> Found[bytes, bool]:
        if self._decides:
            # A destination may have lost its head meanwhile, and have live tasks all the same.
            link = self.link
            return lambda: [(key, link.row(_OCCUPIED, key=key) is not None) for key in keys]
        found = self.link.ask_among(_HEADED, keys)
        return lambda: [(bytes(row[0]), True) for row in found.rows()]

    def _ask_paused(self, _: list[str]) -> Found[str, frozenset[str]]:
        found = self.link.ask(_PAUSED)
        return lambda: [(_ALL, frozenset(row[0] for row in found.rows()))]

    def _ask_last_seq(self, _: list[str]) -> Found[str, int]:
        found = self.link.ask(_LAST_SEQ)
        return lambda: [(_TASKS, row[0]) for row in found.rows()]

    # Of all tasks -------------------------------------------------------------------------------------------------

    @property
    def paused(self) -> frozenset[str]:
        """Return the paused queues. None of their tasks starts."""
        return self._paused.get(_ALL)

    def is_paused(self, queue: str) -> bool:
        """Tell whether the queue is paused."""
        return queue in self._paused.get(_ALL)

    def forget_paused(self) -> None:
        """Forget the paused queues, because one was paused or resumed."""
        self._paused.clear()

    def last_seq(self) -> int:
        """Return the last number in the order of acceptance that was given before this transaction."""
        last = self._numbers.get(_TASKS)
        if last < 0:
            raise BatchConflict("the row of the sequence is gone")
        return last

    def gave_seqs(self, last: int) -> None:
        """Note the last number that this transaction has given."""
        self._numbers.put(_TASKS, last)

    def remember(self) -> None:
        """Leave the rows that were read to the next transactions, after this one was committed."""
        self.tasks.remember()
        self.counters.remember()
        self.sessions.remember()
        self._paused.remember()
        self._numbers.remember()
