"""Commands that servers give for themselves. Those of several servers on one database are meant for PostgreSQL; SQLite
carries them out too."""

from __future__ import annotations

from dataclasses import dataclass

from longshore.server.model.servers import Here
from longshore.server.store.commands.base import Command


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifyDatabase(Command[int]):
    """Identify the database by a number that is made once, at random (`candidate`, 62 bits), and never changes."""

    candidate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnounceServer(Command[None]):
    """Record a sign of life of this server, every few seconds. The command drops entries of servers that are long dead,
    if no file is left in their spool or another server has the spool."""

    here: Here
    address: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetireServer(Command[None]):
    """Drop the entry of this server, which leaves. If files are left in its spool, and no other server has the spool,
    the entry stays, as a dead one, to tell where they are."""

    here: Here


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordHome(Command[None]):
    """Record that the upload gets a file in this server's spool next (rows come before files). Raises
    UploadTakenOver."""

    upload_id: str
    connection: int
    here: Here


@dataclass(frozen=True, slots=True)
class Heard:
    """A sign of life: this server serves `connection` of an upload, which has said nothing for `silent` seconds."""

    upload_id: str
    connection: int
    silent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HearUploads(Command[frozenset[str]]):
    """Record signs of life of the uploads that this server is sent. The answer has those that another connection has,
    or that are open no more."""

    here: Here
    uploads: tuple[Heard, ...]


@dataclass(frozen=True, slots=True)
class Met:
    """The identity of the database, and how far it has come."""

    database: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeetDatabase(Command[Met]):
    """Find out which database this is (`candidate` as for IdentifyDatabase), and how far it has come."""

    candidate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkRestored(Command[None]):
    """Mark the database as restored: it is behind the position `known`, which it had reached at least: see `restores`.
    Runs alone in its transaction."""

    known: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteClock(Command[None]):
    """Write down what both clocks say: see `clock_steps`. All stored times move by `step`, the seconds by
    which the wall clock was set; 0 means that it was not set. Runs alone in its transaction."""

    boot: int
    ticks: float
    wall: float
    step: float
