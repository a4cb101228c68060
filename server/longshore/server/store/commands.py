"""Commands: each is one change of the store, as a value.

A command is a re-executable value: run again after a rollback, or after a commit whose answer was lost, it gives the
same result. It checks first and changes afterwards; a `LongshoreError` that it raises fails its own caller and nobody
else in the group. Results are the type parameter of `Command`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Generic, TypeVar

from longshore.server.model.events import Reported
from longshore.server.model.records import record
from longshore.server.model.remarks import Remark
from longshore.server.model.servers import Here
from longshore.server.model.task import Grant, Payload, Session, Task, Terms, Upload, Work
from longshore.server.model.values import Settlement, WaitReason

R = TypeVar("R", covariant=True)


class Urgency(IntEnum):
    """Order in which waiting commands enter a transaction. `SUBMIT` is bounded in bytes and refuses
    (StoreOverloaded)."""

    LEASE = 0
    CONTROL = 1
    SUBMIT = 2
    MAINTENANCE = 3


class Command(Generic[R]):
    """Base of all commands."""

    __slots__ = ()
    urgency: ClassVar[Urgency] = Urgency.CONTROL


@record
class TaskPlan:
    """A task to be made. `not_before` is in seconds from acceptance."""

    work: Work
    terms: Terms
    not_before: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits that are checked in the transaction that takes from them. None means that there is no limit."""

    queue_tasks: int = 100_000
    """Live tasks in one queue, promised ones of open uploads included."""
    caller_tasks: int | None = None
    """Live tasks of one creator."""
    uploads: int = 64
    """Open uploads in all."""
    caller_uploads: int | None = None
    spool_bytes: int | None = None
    """Payload bytes kept and reserved in all. What the disk has free is checked by the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifyDatabase(Command[int]):
    """Identify the database by a number that is made once, at random (`candidate`, 62 bits), and never changes."""

    candidate: int


# Uploads ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenUpload(Command[Upload]):
    """Find or make the upload of (principal, request_id).

    A complete one comes back as it is, tasks included, whatever the bounds say. An open one comes back with its durable
    offset; with `connect`, its `connection` is counted up, so that an older connection's commands are refused from now
    on. A new one takes `tasks` slots in `queue` and `reserve` bytes.

    With several servers (`here`), an upload that another server is being sent is left to that server, unless its
    connection has been silent for `silence` seconds, or `take_over` is set. An upload whose file is in another spool
    than this server's begins again at offset 0.

    Raises RequestIdReused (another fingerprint, or the id made tasks without an upload), QueueFull, CallerShare,
    SpoolFull, TooManyUploads, UploadInProgress.
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
    """Make the payload, which is sealed on disk, and its tasks. If that is done already, the answer is the same again.

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


# Tasks --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitTasks(Command[tuple[Task, ...]]):
    """Make tasks without an upload; the same request id again answers the same tasks.

    `payload_id` names a payload that a task of `principal` keeps (any, if `any_creator`); or `payload` is a new one,
    small enough to be kept in the database, with its `content`. Raises RequestIdReused, QueueFull, CallerShare,
    PayloadGone, SpoolFull.
    """

    urgency: ClassVar[Urgency] = Urgency.SUBMIT
    principal: str
    request_id: str
    fingerprint: str
    plans: tuple[TaskPlan, ...]
    payload_id: str = ""
    payload: Payload | None = None
    content: bytes = b""
    any_creator: bool = False
    bounds: Bounds = field(default_factory=Bounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryTask(Command[Task]):
    """Make a new task like an unsuccessful one, at the end of its destination's order.

    With `creator` None anybody's task may be retried. Raises NotFound, PayloadGone, NotRetryable, Superseded,
    RevisionMismatch, RequestIdReused, QueueFull, CallerShare. The new task has the old one's creator, who sees and
    cancels it and whose share it takes, and its durations, counted anew; the request is the principal's.
    """

    urgency: ClassVar[Urgency] = Urgency.SUBMIT
    principal: str
    creator: str | None
    task_id: str
    request_id: str
    force: bool
    expected_revision: int | None
    bounds: Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTask(Command[Task]):
    """Ask for a task to be cancelled; with `creator` None it may be anybody's. Raises NotFound, RevisionMismatch."""

    task_id: str
    creator: str | None
    reason: str
    expected_revision: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleTask(Command[Task]):
    """Settle a task as an operator says. Raises NotFound, NotSettling."""

    task_id: str
    settlement: Settlement


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseQueue(Command[None]):
    """Start no tasks of `queue`, or start them again.

    With `create` false a queue that never held a task and was never paused is refused: raises QueueNotFound.
    """

    queue: str
    paused: bool
    create: bool = True


# Fleet --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An offer says what one session could take now."""

    session_id: str
    epoch: int
    room: int
    """Attempts that the session could take, 1 or more."""
    idle: bool
    """Whether the session holds nothing: it may then take a task that must run alone, and only that one."""
    begins: bool = False
    """Whether the session says when an attempt that runs alone begins. Otherwise the attempt counts as begun when it is
    claimed."""
    kept_for: frozenset[str] = frozenset()
    """Targets that the session serves and holds nothing of: room for one attempt each is kept for them (`Shares`)."""


@dataclass(frozen=True, slots=True)
class Claims:
    """The answer to ClaimTasks. `taken` has (session id, task as claimed). `solo_waiting` has the ids of sessions that
    are not idle while a task that must run alone waits for one of them: one of them can be left to run dry."""

    taken: tuple[tuple[str, Task], ...]
    solo_waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimTasks(Command[Claims]):
    """Claim for all these sessions: heads with room in their instance and target, by priority, then acceptance.

    Offers of sessions that have ended, drain, or have a newer epoch take nothing. A task that must run alone goes to an
    idle session only, which then takes nothing else. A session takes no more of a target than its share.
    """

    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class BeginAnswer:
    """`reason` when refused: CANCELLED, REVOKED or STALE."""

    task_id: str
    attempt: int
    begun: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginAttempts(Command[tuple[BeginAnswer, ...]]):
    """Record that the handlers of these attempts, (task id, number) each, are about to start: from now on the loss of
    the session counts against the tasks. A session that has ended or has a newer epoch is refused each."""

    session_id: str
    epoch: int
    attempts: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class GrantAnswer:
    """`reason` when refused: CANCELLED, REVOKED or STALE."""

    task_id: str
    attempt: int
    granted: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestGrants(Command[tuple[GrantAnswer, ...]]):
    """Ask for grants. A session that has ended or has a newer epoch is refused each."""

    session_id: str
    epoch: int
    requests: tuple[tuple[str, Grant], ...]
    """(task id, grant); `granted_at` is filled in by the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReports(Command[tuple[bool, ...]]):
    """Report ends of attempts; the answer says for each whether it counted. Reports of older epochs do not count."""

    session_id: str
    epoch: int
    reports: tuple[tuple[str, Reported], ...]
    """(task id, report)."""


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """The answer to OpenSession. `session.held` are the attempts of the hello's list that are still its own."""

    session: Session


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSession(Command[SessionOpened]):
    """Open a session, or connect it anew: a later epoch, lease renewed. `epoch` is the one that the worker counts; 0
    means the next one.

    Attempts the store thinks it holds and `held` does not name never arrived: they are queued again at no cost (a
    granted one is settled). `dead_sessions` of the same principal end now, as lost. Raises Forbidden (the session id
    is another principal's, alive or ended), TargetIdentity (a served name is bound to another daemon by a session that
    is still alive or by a task that ran there; an empty identity binds nothing), EpochSuperseded (a hello that was said
    later than this one was taken already).
    """

    session_id: str
    worker: str
    principal: str
    targets: Mapping[str, str]
    kinds: Mapping[str, bool]
    version: str
    held: tuple[tuple[str, int], ...]
    dead_sessions: tuple[str, ...]
    lease: float
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewLeases(Command[frozenset[str]]):
    """Renew the leases of sessions, (session id, epoch) each. The answer has the ids whose lease is renewed; the others
    ended or have a newer epoch."""

    urgency: ClassVar[Urgency] = Urgency.LEASE
    sessions: tuple[tuple[str, int], ...]
    lease: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect(Command[None]):
    """Record that the stream of this epoch is gone; the lease runs on. With `goodbye` the session ends: what it holds
    was handed back."""

    session_id: str
    epoch: int
    goodbye: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteRemark(Command[None]):
    """Record what the session says of itself now. Nothing happens if the session has ended or lives on another
    connection, or if the database has no place for the remark."""

    session_id: str
    epoch: int
    remark: Remark


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainSession(Command[Session]):
    """Give this session no more work. Raises NotFound."""

    session_id: str


@dataclass(frozen=True, slots=True)
class Woken:
    """The answer to WakeParked: how many `tasks` were woken, and `more` if the limit was reached."""

    tasks: int
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeParked(Command[Woken]):
    """Wake up to `limit` tasks that are parked for this instance (for all of the target's if `instance` is empty).

    `running` false wakes only those that wait for the instance to exist. Run the command again while there are more:
    leases wait behind each transaction, and a hundred thousand tasks may be parked.
    """

    target: str
    project: str
    instance: str
    running: bool
    limit: int = 500


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


# Janitor ------------------------------------------------------------------------------------------------------------


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


PARK_REASONS = (WaitReason.INSTANCE_STOPPED, WaitReason.INSTANCE_ABSENT)
