"""Commands of uploads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from longshore.server.model.servers import Here
from longshore.server.model.task import Payload, Terms, Upload
from longshore.server.store.commands.base import Command, Urgency
from longshore.server.store.commands.tasks import Bounds, TaskPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenUpload(Command[Upload]):
    """Find or make the upload of (principal, request_id).

    A complete one comes back as it is, tasks included, whatever the bounds say. An open one comes back with its durable
    offset; with `connect`, its `connection` is counted up, so that an older connection's commands are refused from now
    on. A new one takes `tasks` slots in `queue` and `reserve` bytes.

    With several servers (`here`), an upload that another server is being sent is left to that server, unless its
    connection has been silent for `silence` seconds, or `take_over` is set. An upload whose file is in another spool
    than this server's begins again at offset 0.

    The tasks of a new one come after those that `terms` name, tasks of `principal` (anybody's, if `any_creator`).

    Raises RequestIdReused (another fingerprint, or the id made tasks without an upload), QueueFull, CallerShare,
    SpoolFull, TooManyUploads, UploadInProgress, NotFound, DependencyFailed, OldServers.
    """

    urgency: ClassVar[Urgency] = Urgency.SUBMIT
    upload_id: str
    """The id that a new upload gets; an existing upload keeps its own."""
    principal: str
    request_id: str
    fingerprint: str
    queue: str
    tasks: int
    size: int | None
    sha256: bytes
    reserve: int
    connect: bool
    bounds: Bounds
    here: Here | None = None
    spooled: bool = False
    """The upload is known beforehand to get a file: its home is recorded at once."""
    take_over: bool = False
    silence: float = 10.0
    terms: Terms | None = None
    any_creator: bool = False
    needs_servers: bool = False
    """Servers of the version before would do the tasks wrong: refused while one runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Command[Upload]):
    """Record that `offset` bytes with `crc32c` are on disk; raise the reservation to `reserve` bytes if it is lower.

    `offset` None only touches the upload (a sign of life). `release` says that the connection has ended, and that any
    server may continue at once. Raises UploadTakenOver (another connection number, or no longer open), SpoolFull.
    """

    urgency: ClassVar[Urgency] = Urgency.SUBMIT
    upload_id: str
    connection: int
    offset: int | None
    crc32c: int
    reserve: int
    bounds: Bounds
    release: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishUpload(Command[Upload]):
    """Make the payload, which is sealed on disk, and its tasks. Without plans the payload is kept alone for a
    while. If that is done already, the answer is the same again.

    Raises UploadTakenOver, RequestIdReused (another connection has finished it, with other bytes), and nothing else:
    the room was taken by OpenUpload. `inline` is the content of a small payload that is kept in the database instead of
    the spool; None means that the content is in the spool. `homed` says that a home was recorded for such a payload all
    the same; the home is then dropped.
    """

    urgency: ClassVar[Urgency] = Urgency.SUBMIT
    upload_id: str
    connection: int
    payload: Payload
    plans: tuple[TaskPlan, ...]
    inline: bytes | None = None
    homed: bool = False

    @property
    def weight(self) -> int:
        return max(1, len(self.plans))

    @property
    def held_bytes(self) -> int:
        return 1024 + sum(plan.held_bytes for plan in self.plans) + len(self.inline or b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectUpload(Command[None]):
    """Give the upload up now, because its bytes are wrong (the janitor removes its file). Stale connections do
    nothing."""

    upload_id: str
    connection: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AbandonIdleUploads(Command[tuple[str, ...]]):
    """Give up open uploads untouched for `idle` seconds; answers with all abandoned ones whose files are to be
    removed: with a `spool` (its identity) those that have their file there, or none."""

    urgency: ClassVar[Urgency] = Urgency.MAINTENANCE
    idle: float
    spool: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetUploads(Command[None]):
    """Drop the rows of abandoned uploads whose files are gone; with `homes` the rows of their homes too."""

    urgency: ClassVar[Urgency] = Urgency.MAINTENANCE
    upload_ids: tuple[str, ...]
    homes: bool = False
