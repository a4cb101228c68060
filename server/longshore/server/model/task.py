"""The task and what belongs to it, as frozen values.

A task is a `Submission`, which never changes, and a `Status`, which each durable change replaces and numbers.
Wall-clock times are seconds since the epoch (UTC), by the database's clock; `ticks` are seconds of a clock that never
goes back and counts while the machine sleeps (CLOCK_BOOTTIME), and mean nothing after a reboot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from longshore.contract.enums import IfExists, WhenAbsent, WhenStopped
from longshore.server.model.records import record
from longshore.server.model.values import AttemptEnd, DeliveryMethod, State, UploadState, WaitReason

FILE_PUSH = "file_push"
"""The built-in kind."""


@record
class Destination:
    """A place inside an instance. `path` is normalised and absolute; `project` may be empty."""

    target: str
    project: str
    instance: str
    path: str

    @property
    def key(self) -> str:
        """One string for the order of deliveries; NUL cannot occur in any part."""
        return "\0".join((self.target, self.project, self.instance, self.path))


@record
class FilePush:
    """One file to one destination. Modes are 0 to 0o777.

    A mode or owner that is None means that of the file that is replaced, else `mode_if_new` and root; a `mode_if_new`
    that is None means 0644.
    """

    destination: Destination
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    create_parents: bool = False
    if_exists: IfExists = IfExists.REPLACE
    when_stopped: WhenStopped = WhenStopped.DELIVER
    when_absent: WhenAbsent = WhenAbsent.FAIL
    read_back: bool = False
    mode_if_new: int | None = None
    parents_mode: int | None = None
    """The mode of the folders that are created. None means 0755."""
    in_place: bool = False


@record
class AnyValue:
    """A google.protobuf.Any, unopened."""

    type_url: str
    value: bytes


@record
class Job:
    """A call of a registered handler. `target` and `instance` may be empty."""

    kind: str
    arguments: AnyValue | None
    target: str = ""
    instance: str = ""


@dataclass(frozen=True, slots=True)
class Payload:
    """Uploaded bytes. `crc32c` is unsigned; `sha256` is 32 bytes or empty."""

    id: str
    size: int
    crc32c: int
    sha256: bytes = b""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure says why something did not succeed: `reason` for programs, `message` for people."""

    reason: str
    message: str
    transient: bool = False


@record
class Grant:
    """A durable permission to commit, and what settling must know of it."""

    attempt: int
    session_id: str
    temp: str
    method: DeliveryMethod
    granted_at: float
    crc32c: int | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


@record
class Submission:
    """The part of a task that never changes: what the caller asked for. `seq` is the order of acceptance."""

    seq: int
    id: str
    creator: str
    request_id: str
    kind: str
    queue: str
    priority: int
    labels: Mapping[str, str]
    work: FilePush | Job
    payload: Payload | None
    run_timeout: float
    """Seconds."""
    stall_timeout: float | None
    """Seconds. None means that a stall is not limited."""
    attempt_limit: int
    expires_at: float
    created_at: float
    retry_of: str = ""
    retried_by: str = ""
    """The principal that retried the task for its creator, and whose request made this one. Empty means the creator."""

    @property
    def requester(self) -> str:
        """The principal whose request made the task."""
        return self.retried_by or self.creator

    @property
    def destination(self) -> Destination | None:
        return self.work.destination if isinstance(self.work, FilePush) else None

    @property
    def target(self) -> str:
        return self.work.destination.target if isinstance(self.work, FilePush) else self.work.target

    @property
    def project(self) -> str:
        return self.work.destination.project if isinstance(self.work, FilePush) else ""

    @property
    def instance(self) -> str:
        return self.work.destination.instance if isinstance(self.work, FilePush) else self.work.instance

    @property
    def must_commit(self) -> bool:
        """Whether this kind can only succeed with a grant."""
        return self.kind == FILE_PUSH


@record
class Status:
    """The part of a task that changes, at one revision."""

    revision: int
    state: State
    head: bool
    """The task is the head of its destination. Always true where there is no destination."""
    wait_reason: WaitReason = WaitReason.NONE
    due_at: float | None = None
    """The earliest time at which a SCHEDULED or SETTLING task goes on. None while the task is parked."""
    attempt: int = 0
    tries: int = 0
    crashes: int = 0
    solo_crashes: int = 0
    """Crashes of attempts that ran alone and had begun."""
    alone: bool = False
    """The running or next attempt runs alone on its worker."""
    session_id: str = ""
    """Holder of the running attempt; empty while none runs."""
    worker: str = ""
    """Name of the newest attempt's worker."""
    started_at: float | None = None
    """When the newest attempt started; for a worker that does not say when it begins, the time of the claim. None means
    that an attempt that is to run alone is claimed and has not begun: if its worker is lost now, the handler is not to
    blame."""
    deadline_ticks: float | None = None
    """When the running attempt, its cancel or its settling is given up."""
    grant: Grant | None = None
    cancel_requested: bool = False
    cancel_reason: str = ""
    error: Failure | None = None
    result: AnyValue | None = None
    method: DeliveryMethod = DeliveryMethod.UNKNOWN
    updated_at: float = 0.0
    finished_at: float | None = None
    retryable_until: float | None = None


@record
class Task:
    """A task at one revision."""

    submission: Submission
    status: Status

    @property
    def id(self) -> str:
        return self.submission.id


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a task by one worker, as history."""

    number: int
    worker: str
    session_id: str
    started_at: float
    settling: bool = False
    alone: bool = False
    granted_at: float | None = None
    ended_at: float | None = None
    end: AttemptEnd | None = None
    error: Failure | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload under way or done. `connection` numbers the connections that sent for it: the newest one alone may
    write."""

    id: str
    principal: str
    request_id: str
    fingerprint: str
    state: UploadState
    offset: int
    crc32c: int
    size: int | None
    sha256: bytes
    reserved: int
    """Bytes of spool that are set aside for it."""
    connection: int
    touched_at: float
    payload: Payload | None = None
    tasks: tuple[Task, ...] = ()


@dataclass(frozen=True, slots=True)
class Debt:
    """Temps of a lost attempt that any worker on the target is to remove."""

    id: str
    destination: Destination
    task_id: str
    attempt: int
    temp: str = ""
    """The one temp, where a grant named it. Empty means all temps that the attempt could have made."""


@dataclass(frozen=True, slots=True)
class Session:
    """A worker process's registration. `targets` maps names to the identities of their daemons."""

    id: str
    worker: str
    principal: str
    epoch: int
    targets: Mapping[str, str]
    kinds: Mapping[str, bool]
    """Kind to "its handler can settle"."""
    version: str
    started_at: float
    lease_ticks: float
    connected: bool = True
    draining: bool = False
    held: tuple[tuple[str, int], ...] = field(default=())
    """(task id, attempt) of each attempt that the session was assigned and that has not ended."""
