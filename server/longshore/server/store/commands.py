"""What may be done to the durable state.

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
from longshore.server.model.task import FilePush, Grant, Job, Payload, Session, Task, Upload
from longshore.server.model.values import Settlement, WaitReason

R = TypeVar("R", covariant=True)


class Lane(IntEnum):
    """Order in which waiting commands enter a transaction. `SUBMIT` is bounded in bytes and refuses
    (StoreOverloaded)."""

    LEASE = 0
    CONTROL = 1
    SUBMIT = 2
    MAINTENANCE = 3


class Command(Generic[R]):
    """Base of all commands."""

    __slots__ = ()
    lane: ClassVar[Lane] = Lane.CONTROL


@record
class TaskPlan:
    """A task to be made: a validated request with every default filled in. Times in seconds from acceptance."""

    kind: str
    work: FilePush | Job
    queue: str
    priority: int
    labels: Mapping[str, str]
    not_before: float
    expire_after: float
    run_timeout: float
    stall_timeout: float | None
    attempt_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits that are checked where they are taken, in the same transaction. None: unbounded."""

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
    """Which database this is: a number made once, at random (`candidate`, 62 bits), and the same for ever after."""

    candidate: int


# Uploads ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenUpload(Command[Upload]):
    """Find or make the upload of (principal, request_id).

    A complete one comes back as it is, tasks included, whatever the bounds say. An open one comes back with its durable
    offset; with `connect`, its `connection` is counted up, so that an older connection's commands are refused from now
    on. A new one takes `tasks` places in `queue` and `reserve` bytes.

    Of several servers (`here`): an upload that another one is being sent is left to it, unless its connection has been
    silent for `silence` seconds, or `take_over`. What is in another spool than this server's begins again at offset 0.

    Raises RequestIdReused (another fingerprint, or the id made tasks without an upload), QueueFull, CallerShare,
    SpoolFull, TooManyUploads, UploadInProgress.
    """

    lane: ClassVar[Lane] = Lane.SUBMIT
    upload_id: str
    """Of a new upload; an existing one keeps its own."""
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
    """It is going to have a file, which is known beforehand: its home is recorded at once."""
    take_over: bool = False
    silence: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Command[Upload]):
    """`offset` bytes with `crc32c` are on disk; raise the reservation to `reserve` bytes if it is lower.

    `offset` None touches only (a sign of life). `release`: the connection has ended, and a server that wants to may
    continue at once. Raises UploadTakenOver (another connection number, or no longer open), SpoolFull.
    """

    lane: ClassVar[Lane] = Lane.SUBMIT
    upload_id: str
    connection: int
    offset: int | None
    crc32c: int
    reserve: int
    bounds: Bounds
    release: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishUpload(Command[Upload]):
    """The payload is sealed on disk: make it and its tasks. Done already: the same answer again.

    Raises UploadTakenOver, RequestIdReused (another connection has finished it, with other bytes), and nothing else:
    the room was taken by OpenUpload. `inline` is the content of a small payload that is kept in the database instead of
    the spool; None: it is in the spool. `homed`: a home was recorded for it all the same, which goes.
    """

    lane: ClassVar[Lane] = Lane.SUBMIT
    upload_id: str
    connection: int
    payload: Payload
    plans: tuple[TaskPlan, ...]
    inline: bytes | None = None
    homed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectUpload(Command[None]):
    """The bytes are wrong: give the upload up now (its file is removed by the janitor). Stale connections do
    nothing."""

    upload_id: str
    connection: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AbandonIdleUploads(Command[tuple[str, ...]]):
    """Give up open uploads untouched for `idle` seconds; answers with all abandoned ones whose files are to be
    removed: with a `spool` (its identity) those that have their file there, or none."""

    lane: ClassVar[Lane] = Lane.MAINTENANCE
    idle: float
    spool: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetUploads(Command[None]):
    """The files of these abandoned uploads are gone: drop the rows. `homes`: those of their homes too."""

    lane: ClassVar[Lane] = Lane.MAINTENANCE
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

    lane: ClassVar[Lane] = Lane.SUBMIT
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

    `creator` None may retry anybody's. Raises NotFound, PayloadGone, NotRetryable, Superseded, RevisionMismatch,
    RequestIdReused, QueueFull, CallerShare. The new task has the old one's creator, who sees and cancels it and whose
    share it takes, and its durations, counted anew; the request is the principal's.
    """

    lane: ClassVar[Lane] = Lane.SUBMIT
    principal: str
    creator: str | None
    task_id: str
    request_id: str
    force: bool
    expected_revision: int | None
    bounds: Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTask(Command[Task]):
    """Ask for an end. `creator` None may cancel anybody's. Raises NotFound, RevisionMismatch."""

    task_id: str
    creator: str | None
    reason: str
    expected_revision: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleTask(Command[Task]):
    """An operator's settlement. Raises NotFound, NotSettling."""

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
    """What one session could take now."""

    session_id: str
    epoch: int
    room: int
    """Attempts it could take, 1 or more."""
    idle: bool
    """It holds nothing: it may take a task that must run alone (then only that one)."""
    begins: bool = False
    """It says when an attempt that runs alone begins; else that counts as begun when it is claimed."""
    kept_for: frozenset[str] = frozenset()
    """Targets that it serves and holds nothing of: room for one attempt each is kept for them (`Shares`)."""


@dataclass(frozen=True, slots=True)
class Claims:
    """`taken`: (session id, task as claimed). `solo_waiting`: a task that must run alone waits for one of the sessions
    that are not idle; those sessions' ids, so that one of them can be left to run dry."""

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
    """The handlers of these attempts, (task id, number) each, are about to start: from now on the loss of the session
    counts against the tasks. A session that has ended or has a newer epoch is refused each."""

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
    """Ask for commits. A session that has ended or has a newer epoch is refused each."""

    session_id: str
    epoch: int
    requests: tuple[tuple[str, Grant], ...]
    """(task id, grant); `granted_at` is filled in by the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReports(Command[tuple[bool, ...]]):
    """Ends of attempts; answers for each whether it counted. Older epochs count for nothing."""

    session_id: str
    epoch: int
    reports: tuple[tuple[str, Reported], ...]
    """(task id, report)."""


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """`session.held` are the attempts of the hello's list that are still its own."""

    session: Session


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSession(Command[SessionOpened]):
    """A connection of a worker process: a later epoch, lease renewed. `epoch` is the one that the worker counts; 0: the
    next one.

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
    """Signs of life: (session id, epoch) each; answers with the ids whose lease is renewed (the others ended or moved
    on)."""

    lane: ClassVar[Lane] = Lane.LEASE
    sessions: tuple[tuple[str, int], ...]
    lease: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect(Command[None]):
    """The stream of this epoch is gone; the lease runs on. With `goodbye` the session ends: what it holds was handed
    back."""

    session_id: str
    epoch: int
    goodbye: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteRemark(Command[None]):
    """What the session says of itself now. Nothing happens if it has ended or lives on another connection, or if the
    database has no place for it."""

    session_id: str
    epoch: int
    remark: Remark


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainSession(Command[Session]):
    """Give this session no more work. Raises NotFound."""

    session_id: str


@dataclass(frozen=True, slots=True)
class Woken:
    """How many `tasks`; `more` if the limit was reached."""

    tasks: int
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeParked(Command[Woken]):
    """Tasks parked for this instance are ready (all of the target's if `instance` is empty): wake up to `limit`.

    `running` false wakes only those that wait for the instance to exist. Run it again while there are more: leases
    wait behind each transaction, and a hundred thousand tasks may be parked.
    """

    target: str
    project: str
    instance: str
    running: bool
    limit: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class PayDebt(Command[None]):
    """The temps are gone. A debt whose temp is not known is asked for once more after `again` seconds: the lost worker
    might have been asleep and made it later. Until then it cannot be paid: several servers may ask for it at once.

    `paid` false: it could not be done now. The debt is asked for again after `again` seconds, and until then makes way
    for others of its target.
    """

    lane: ClassVar[Lane] = Lane.MAINTENANCE
    debt_id: str
    again: float = 600.0
    paid: bool = True


# Janitor ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ticked:
    """`changed` tasks; `more` if the limit was reached; `next_at`: wall clock of the next due or expiring task, if
    any."""

    changed: int
    more: bool
    next_at: float | None
    next_ticks: float | None
    """The next attempt's deadline on the lease clock, if any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick(Command[Ticked]):
    """Whatever time has brought: due tasks, expired ones, attempts over their deadline. At most `limit` of each."""

    limit: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ReapSessions(Command[tuple[str, ...]]):
    """End sessions whose lease is over; their attempts are lost. Answers with their ids.

    The caller runs it only when the store has been writable for a full lease, and says with `before` (ticks) when it
    saw that: what ended later is left for the next time. None: whatever has ended when the command is carried out.
    """

    limit: int = 50
    before: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendLeases(Command[None]):
    """At a server's start: every lease and deadline runs from now. (After a reboot old ticks mean nothing.)"""

    lease: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DoomPayloads(Command[tuple[str, ...]]):
    """Payloads that nothing needs any more: every task succeeded, or all are past `retryable_until`. Marks them, so
    that no task can be made from them, and answers with every marked one. `free`: bytes to free by evicting retryable
    ones too, the oldest first.

    With a `spool` (its identity) only those are evicted and answered that are there, or in the database: the rest is
    for the servers that have it.
    """

    lane: ClassVar[Lane] = Lane.MAINTENANCE
    limit: int = 500
    free: int = 0
    spool: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetPayloads(Command[None]):
    """The bytes of these doomed payloads are gone: drop them, and their reservation of spool bytes. `homes`: and their
    homes."""

    lane: ClassVar[Lane] = Lane.MAINTENANCE
    payload_ids: tuple[str, ...]
    homes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeTasks(Command[int]):
    """Drop requests all of whose tasks ended more than `age` seconds ago, with tasks, attempts, events. Answers how
    many tasks."""

    lane: ClassVar[Lane] = Lane.MAINTENANCE
    age: float
    limit: int = 500


PARK_REASONS = (WaitReason.INSTANCE_STOPPED, WaitReason.INSTANCE_ABSENT)
