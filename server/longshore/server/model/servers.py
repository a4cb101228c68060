"""Servers that share one database, and the spools that have the files of its uploads."""

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

    Where there is no `Here`, the database is this server's alone, and no servers and homes are written down.
    """

    server: str
    spool: str


@dataclass(frozen=True, slots=True)
class Home:
    """The spool that has the file of an upload, or of the payload that it became. Empty means that no spool has one
    yet.

    `sender` is the server whose connection sends the upload; empty means that none does. `heard_at` is when that
    connection last said something, by the wall clock of the database.
    """

    spool: str
    sender: str
    heard_at: float

    def away(self, here: Here) -> bool:
        """Return whether the file is in another spool than this server's."""
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
