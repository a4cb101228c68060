"""The unit of work: everything that one transaction has read, decided and will write.

Commands change tasks in memory, through `states.decide` and nothing else; `Writes.flush` writes what changed with one
statement for each kind of row. Rows are written on condition of the revision that was read, so that a writer that
should not be there cannot be overwritten.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from longshore.server.model.clock import Clock
from longshore.server.model.events import Policy
from longshore.server.store.protocol import Changes
from longshore.server.store.sql.link import Link
from longshore.server.store.transaction.counters import POSITION
from longshore.server.store.transaction.decisions import Decisions
from longshore.server.store.transaction.followers import Followers
from longshore.server.store.transaction.limits import ConcurrencyLimits
from longshore.server.store.transaction.memory import Memory
from longshore.server.store.transaction.reads import Reads
from longshore.server.store.transaction.writes import Writes


class UnitOfWork:
    """The parts of one transaction. A helper of the handlers takes the one that it needs."""

    def __init__(self, *, link: Link, clock: Clock, policy: Policy, limits: ConcurrencyLimits, memory: Memory) -> None:
        self.memory: Final = memory
        self.reads: Final = Reads(link=link, clock=clock, memory=memory)
        self.writes: Final = Writes(self.reads)
        self.decisions: Final = Decisions(self.reads, self.writes, policy=policy, limits=limits, draw=clock.jitter)
        self.followers: Final = Followers(self.reads, self.writes, self.decisions)
        self.position = 0
        """How far the database has come with this transaction. 0 means that no task moved, or that the log counts."""

    def finish(self) -> None:
        """Write the rest, at the end."""
        reads, writes = self.reads, self.writes
        writes.flush()
        last_seq = self.decisions.last_seq
        if last_seq is not None:
            writes.set_last_seq(last_seq)
            reads.gave_seqs(last_seq)
        if self.decisions.moved_tasks and not reads.link.dialect.shared:
            reads.counters.move(POSITION, 1)
            self.position = reads.counters.value(POSITION)
        reads.counters.flush()

    def committed(self, results: Iterable[object]) -> None:
        """The transaction is committed: what it knows holds for the next one. `results` are those of its commands."""
        self.reads.remember()
        self.memory.committed(results)

    def changes(self) -> Changes:
        """The changes to tell the engine after the commit."""
        return self.decisions.changes()
