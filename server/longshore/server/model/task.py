"""The task and what belongs to it, as frozen values.

A task is a `Submission`, which never changes, and a `Status`, which each durable change replaces and numbers.
Wall-clock times are seconds since the epoch (UTC), by the database's clock; `ticks` are seconds of a clock that never
goes back and counts while the machine sleeps (CLOCK_BOOTTIME), and mean nothing after a reboot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import ClassVar, Final, TypeAlias

from longshore.contract.enums import IfExists, WhenAbsent, WhenStopped
from longshore.server.model.records import record
from longshore.server.model.values import AttemptEnd, DeliveryMethod, State, UploadState, WaitReason

FILE_PUSH: Final = "file_push"
_OWN_PLACE: Final = b"longshore/task"
"""The domain of digests of tasks, which are never those of destinations."""
BUILT_IN: Final = frozenset({FILE_PUSH})
"""The built-in kinds. Their tasks always have a target, and every worker that runs one can settle it."""


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


@lru_cache(maxsize=8192)
def destination_key_of(destination: Destination) -> bytes:
    """The digest that stands for a destination in the order of deliveries."""
    project = _project(destination.project)
    key = "\0".join((destination.target, project, destination.instance, destination.path))
    return blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).digest()


@lru_cache(maxsize=8192)
def _job_order_key(target: str, project: str, instance: str, key: str) -> bytes:
    """Return the digest that stands for the key of jobs in the order of tasks. It is no destination's: a key may begin
    with a slash."""
    text = "\0".join((target, _project(project), instance, key))
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16, person=b"key of jobs").digest()


def concurrency_key_at(target: str, project: str, instance: str) -> str:
    """Return the concurrency key of a target, project and instance. Empty means that no instance is named. No part has
    slashes."""
    return f"{target}/{instance}/{_project(project)}" if instance else ""


def _project(project: str) -> str:
    """Take the project `default` for the empty one. They are the same on all targets but those that were given another
    project, which only their workers know. There two instances are taken for one: they wait for each other, and nothing
    worse happens.
    """
    return "" if project == "default" else project


@record
class AnyValue:
    """A google.protobuf.Any, unopened."""

    type_url: str
    value: bytes


@record
class FilePush:
    """One file to one destination. Modes are 0 to 0o777.

    A mode or owner that is None means that of the file that is replaced, else `mode_if_new` and root; a `mode_if_new`
    that is None means 0644.
    """

    kind: ClassVar[str] = FILE_PUSH
    arguments: ClassVar[None] = None
    needs_commit: ClassVar[bool] = True
    leaves_temps: ClassVar[bool] = True
    needs_revision: ClassVar[int] = 0
    exclusive: ClassVar[bool] = False

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
    latest_wins: bool = False

    @property
    def needs_servers(self) -> bool:
        return self.latest_wins

    @property
    def target(self) -> str:
        return self.destination.target

    @property
    def project(self) -> str:
        return self.destination.project

    @property
    def instance(self) -> str:
        return self.destination.instance

    @property
    def destination_key(self) -> bytes:
        return destination_key_of(self.destination)


@record
class Job:
    """A call of a registered handler. `target`, `instance` and `project` may be empty. Jobs with a key run one at a
    time, as tasks for one destination do; an empty key gives no order. Nothing of the instance runs beside an exclusive
    job."""

    destination: ClassVar[None] = None
    needs_commit: ClassVar[bool] = False
    leaves_temps: ClassVar[bool] = False

    kind: str
    arguments: AnyValue | None
    target: str = ""
    instance: str = ""
    project: str = ""
    key: str = ""
    exclusive: bool = False
    latest_wins: bool = False

    @property
    def destination_key(self) -> bytes | None:
        return _job_order_key(self.target, self.project, self.instance, self.key) if self.key else None

    @property
    def needs_revision(self) -> int:
        # An older worker would not see the project, and work in another one.
        return 2 if self.project else 0

    @property
    def needs_servers(self) -> bool:
        return bool(self.project or self.key or self.exclusive)


Work: TypeAlias = FilePush | Job
"""What a task does. Each kind answers for itself what the rest of the server asks: its `kind`; `target`, `project` and
`instance`, empty where it has none; `destination`, the `destination_key` of its order, and `arguments`, None where it
has none; `needs_commit`: it can only succeed with a grant; `leaves_temps`: a lost attempt may leave temps;
`needs_revision`: the revision of the contract that its worker must know; `needs_servers`: servers of the version before
would do it wrong; `exclusive`: nothing of its instance may run beside it; `latest_wins`: it takes the place of earlier
tasks for its destination or key."""


def concurrency_key_of(work: Work) -> str:
    """Return the concurrency key of a work. Empty means that it names no instance."""
    return concurrency_key_at(work.target, work.project, work.instance)


@record
class Terms:
    """The terms of a task: how patient to be with it, and what its caller calls it. Times are in seconds.

    Stored tasks leave out what has these defaults, so a default here never changes; a server's own defaults are
    settings. A new field needs a default that means what servers of before did.
    """

    queue: str = "default"
    priority: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    expire_after: float = 7 * 86400.0
    run_timeout: float = 3600.0
    stall_timeout: float | None = None
    """None means that a stall is not limited."""
    attempt_limit: int = 5
    description: str = ""
    """The purpose of the task, in the caller's words."""
    after: tuple[str, ...] = ()
    """The ids of the tasks that this one comes after: its dependencies, each once."""
    after_any_end: bool = False
    """It is enough that the dependencies have ended, in whatever state."""


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
    work: Work
    terms: Terms
    payload: Payload | None
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
    def kind(self) -> str:
        return self.work.kind

    @property
    def target(self) -> str:
        return self.work.target

    @property
    def destination(self) -> Destination | None:
        return self.work.destination

    @property
    def destination_key(self) -> bytes | None:
        """The digest of the place in which the task waits for its turn. A task that comes after others, and has no
        destination, waits in a place of its own. None means that the task waits for no turn."""
        key = self.work.destination_key
        if key is None and self.terms.after:
            return blake2b(self.id.encode(), digest_size=16, person=_OWN_PLACE).digest()
        return key


@record
class Status:
    """The part of a task that changes, at one revision."""

    revision: int
    state: State
    head: bool
    """The task is the head of its destination. Always true where there is no destination and no dependency."""
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
    unmet: int = 0
    """Dependencies that have not ended yet. The task becomes head only without any."""
    superseded_by: str = ""
    """The id of the later task that takes this one's place. Empty means that none does."""
    followed: bool = False
    """Tasks may come after this one. Nobody sees it: it saves the search for them at the end of all other tasks."""


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
    revision: int = 0
    """The revision of the contract that the worker knows."""
