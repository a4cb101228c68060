"""This module writes for a transaction: at once, along with the next question, or together with others of a kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from longshore.server.model.task import Payload
from longshore.server.store.sql.statement import Bulk, Statement, statement
from longshore.server.store.tables.rows import Row
from longshore.server.store.tables.schema import sequence
from longshore.server.store.transaction.counters import Key
from longshore.server.store.transaction.event_log import EventLog
from longshore.server.store.transaction.reads import Reads
from longshore.server.store.transaction.task_writes import write_changed, write_new

_SET_LAST_SEQ: Final = statement(sequence.update().where(sequence.c.name == "tasks").values(value=sa.bindparam("last")))


class Writes:
    """The writes of one transaction. Tasks, and rows beside them, are collected until `flush`.

    `count` counts what has been changed: a command that is refused must not have moved it.
    """

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._link = reads.link
        self.event_log: Final = EventLog(link=reads.link, now=lambda: reads.now)
        self.count = 0
        self._later: tuple[dict[Bulk, list[Row]], dict[Bulk, list[Row]]] = ({}, {})

    def tell(self, what: Statement, **parameters: Any) -> None:
        """Change rows, before anything else is asked."""
        self.count += 1
        self._link.tell(what, **parameters)

    def run(self, what: Statement, **parameters: Any) -> int:
        """Change rows, and wait for the number of rows changed."""
        self.count += 1
        return self._link.run(what, **parameters)

    def many(self, what: Bulk, rows: Sequence[Row]) -> None:
        """Change many rows with one statement, before anything else is asked."""
        self.count += 1
        self._link.write(what, rows)

    def note(self, what: Statement, **parameters: Any) -> None:
        """Change rows also if the command is refused afterwards, because the note is true all the same."""
        self._link.tell(what, **parameters)

    def later(self, what: Bulk, row: Row, *, last: bool = False) -> None:
        """Write a row with the next `flush`, together with others of its kind. `last` puts it behind the others."""
        self.count += 1
        self._later[last].setdefault(what, []).append(row)

    def keep(self, payload: Payload, content: bytes | None, *, until: float = 0.0) -> None:
        """Write the row of a new payload with the next `flush`. If `content` is None, the bytes are in the spool.
        `until`: the wall-clock time for which the payload is kept if no task needs it."""
        self.count += 1
        self.event_log.new_payload(payload, content, until)

    def move(self, key: Key, by: int) -> None:
        """Move a counter."""
        self.count += 1
        self._reads.counters.move(key, by)

    def flush(self) -> None:
        """Write what has changed so far, counters excepted."""
        # Stored tasks come first, because they may leave destinations that new ones take.
        self.flush_stored()
        tasks = self._reads.tasks
        if tasks.new:
            write_new(self._link, tasks.new, self._reads.is_paused)
            tasks.new_ones_are_stored()
        for rows in self._later:
            for what, each in rows.items():
                self._link.write(what, each)
            rows.clear()
        self.event_log.flush()

    def flush_stored(self) -> None:
        """Write the tasks that the database knows, so that queries find them. New tasks are written once, at the end of
        the transaction: a task that is claimed at once is never written as a queued one."""
        changed = self._reads.tasks.changed()
        if changed:
            write_changed(self._link, changed, self._reads.is_paused)
            for loaded in changed:
                loaded.is_written()

    def set_last_seq(self, last: int) -> None:
        """Write the last task number that was given."""
        self._link.tell(_SET_LAST_SEQ, last=last)
