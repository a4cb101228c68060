"""Several servers on one database: which one is meant, and which spool has a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DEAD_AFTER: Final = 30.0
"""Seconds without a sign of life after which a server is taken for dead: ten of its announcements."""

HEARD_EVERY: Final = 2.0
"""Seconds between two signs of life of the uploads that a server is sent. A connection counts as silent only this much
later for other servers, because it may have spoken since the last sign."""


@dataclass(frozen=True, slots=True)
class Here:
    """This server, as others know it: `server` is random for each process, `spool` the identity of its spool.

    Where there is none, the database is this server's alone, and nothing is written down of servers and homes.
    """

    server: str
    spool: str


@dataclass(frozen=True, slots=True)
class Home:
    """Which spool has the file of an upload, or of the payload that it became; empty: none has one yet.

    `sender`: the server whose connection sends it; empty: none does. `heard_at`: when that connection last said
    something, wall clock of the database.
    """

    spool: str
    sender: str
    heard_at: float

    def away(self, here: Here) -> bool:
        """The file is in another spool than this server's."""
        return bool(self.spool) and self.spool != here.spool


@dataclass(frozen=True, slots=True)
class Server:
    """A server's entry. `address` is where workers reach this very server; `seen_ticks` its last sign of life."""

    id: str
    address: str
    spool: str
    version: str
    started_at: float
    seen_ticks: float

    def alive(self, ticks: float) -> bool:
        return ticks - self.seen_ticks < DEAD_AFTER
