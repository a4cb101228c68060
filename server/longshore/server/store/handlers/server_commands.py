"""Commands that servers give for themselves. Those of several servers on one database are meant for PostgreSQL; SQLite
carries them out too."""

from __future__ import annotations

from dataclasses import dataclass

from longshore.server.model.servers import Here
from longshore.server.store.commands import Command


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnounceServer(Command[None]):
    """A sign of life of this server, to be repeated every few seconds. Entries of others that are long dead go, as
    long as no file is left in their spool or another server has it."""

    here: Here
    address: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetireServer(Command[None]):
    """This server leaves. Its entry goes, unless files are left in its spool that no other server has: then it stays,
    as a dead one, to tell where they are."""

    here: Here


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordHome(Command[None]):
    """The upload is about to get a file in this server's spool (rows come before files). Raises UploadTakenOver."""

    upload_id: str
    connection: int
    here: Here


@dataclass(frozen=True, slots=True)
class Heard:
    """`connection` of an upload is served, and has said nothing for `silent` seconds."""

    upload_id: str
    connection: int
    silent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HearUploads(Command[frozenset[str]]):
    """Signs of life of the uploads that this server is sent; answers with those that another connection has, or that
    are open no more."""

    here: Here
    uploads: tuple[Heard, ...]


@dataclass(frozen=True, slots=True)
class Met:
    """Which database it is, and how far it has come."""

    database: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeetDatabase(Command[Met]):
    """Find out which database this is (`candidate` as for IdentifyDatabase), and how far it has come."""

    candidate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkRestored(Command[None]):
    """The database is behind what was done with it, which had come to the position `known` at least: see `restores`.
    Runs alone in its transaction."""

    known: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteClock(Command[None]):
    """Write down what both clocks say: see `clock_steps`. `step`: seconds by which the wall clock was set, which all
    stored times move by; 0: it was not. Runs alone in its transaction."""

    boot: int
    ticks: float
    wall: float
    step: float
