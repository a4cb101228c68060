"""The interface of a store for the engine. SQLite and PostgreSQL implement it; one conformance suite tests both."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeVar, overload

from longshore.server.model.access import Token
from longshore.server.model.agenda import Agenda
from longshore.server.model.records import record
from longshore.server.model.remarks import EndedSession, Remark, Served
from longshore.server.model.request_summary import RequestSummary
from longshore.server.model.servers import Home, Server
from longshore.server.model.task import Attempt, Debt, Destination, Payload, Session, Task, Upload
from longshore.server.model.values import State
from longshore.server.model.waiting import ExclusiveTasks
from longshore.server.store.commands import Command

R = TypeVar("R")

_NAMED: Final = 10
"""How many queues an advice names."""


@record
class TaskChange:
    """One new revision. `holder` is the (session id, attempt) that had the task before it, if any."""

    task: Task
    holder: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes of one commit, in order. `claimable` says that a task became claimable, or that room for one arose.
    `own` says that this server made the commit: counters and logs skip the others, which each server would otherwise
    count and log again. `clock_set` says that all stored times moved, because the wall clock was set.

    Of another server's commit, `tasks` has those that a listener wants, and `agenda` tells of all. An `agenda` of None
    means that `tasks` has all."""

    tasks: tuple[TaskChange, ...]
    claimable: bool
    debts: bool = False
    sessions_ended: tuple[str, ...] = ()
    own: bool = field(default=True, compare=False)
    clock_set: bool = field(default=False, compare=False)
    agenda: Agenda | None = field(default=None, compare=False)


class Moved(NamedTuple):
    """Another server's change of a task, before the task is read.

    `seq` is the task's number, and `session_id` the session that held the task before the change, or empty. `of_target`
    says that the change concerns every listener of the task's target: an attempt on the target has ended, or a task
    that waited for an instance of the target waits no more.
    """

    seq: int
    session_id: str
    of_target: bool


Wants = Callable[[Moved], bool]
"""A function that tells whether a listener wants to hear of a change. Any thread may call it."""


def nothing(_: Moved) -> bool:
    """Want no task that another server changes. Listeners hear of the rest of its commit in any case."""
    return False


def what_targets_do(moved: Moved) -> bool:
    """Want the changes of other servers that concern every listener of their targets."""
    return moved.of_target


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """A filter for tasks to list: every field that is set must hold. Times are wall-clock seconds."""

    states: frozenset[State] = frozenset()
    kinds: frozenset[str] = frozenset()
    queue: str = ""
    target: str = ""
    instance: str = ""
    labels: Mapping[str, str] | None = None
    created_after: float | None = None
    created_before: float | None = None
    request_id: str = ""
    creator: str = ""
    id_prefix: str = ""
    """The prefix is in upper case. Zeros in front of it may be left out."""


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """`oldest_queued`: when the oldest QUEUED task was accepted."""

    queue: str
    paused: bool
    live: Mapping[State, int]
    oldest_queued: float | None


@dataclass(frozen=True, slots=True)
class TargetFigures:
    """Tasks of one target by what they do; `debts`: temps still to be removed."""

    target: str
    queued: int
    running: int
    parked: int
    debts: int


@dataclass(frozen=True, slots=True)
class Figures:
    """A snapshot for operators. `queued_kinds`: kinds with QUEUED tasks."""

    queues: tuple[QueueFigures, ...]
    targets: tuple[TargetFigures, ...]
    spool_bytes: int
    """Payload bytes kept and reserved."""
    open_uploads: int
    queued_kinds: frozenset[str]


@dataclass(frozen=True, slots=True)
class TaskPage(Sequence[Task]):
    """Tasks of one read, in its order. `resume`: the number below which the next page goes on. None means that no
    further ones match."""

    tasks: tuple[Task, ...]
    resume: int | None

    @property
    def more(self) -> bool:
        """Tell whether further ones may match."""
        return self.resume is not None

    @overload
    def __getitem__(self, index: int) -> Task: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Task]: ...

    def __getitem__(self, index: int | slice) -> Task | Sequence[Task]:
        return self.tasks[index]

    def __len__(self) -> int:
        return len(self.tasks)


class InstanceKey(NamedTuple):
    """An instance of a target, or a target alone where `instance` is empty."""

    target: str
    project: str
    instance: str


@dataclass(frozen=True, slots=True)
class Holdings:
    """The holdings of one session: how many attempts, on which targets, and whether one of them runs alone."""

    held: int = 0
    targets: frozenset[str] = frozenset()
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """The facts that decide whether tasks are claimed, at one moment: see `model.waiting`."""

    sessions: tuple[Session, ...] = ()
    """The sessions whose lease has not ended, without what they hold."""
    held: Mapping[str, Holdings] = field(default_factory=dict)
    """The holdings of each session, by its id; sessions that were left out are not in it."""
    remarks: Mapping[str, Remark] = field(default_factory=dict)
    paused: frozenset[str] = frozenset()
    """Names of paused queues."""
    on_target: Mapping[str, int] = field(default_factory=dict)
    """Attempts that run on each target where one does."""
    on_instance: Mapping[InstanceKey, int] = field(default_factory=dict)
    """Attempts that run on each instance that was asked for."""
    served: Mapping[str, Served] = field(default_factory=dict)
    """Targets that a session has stopped to serve."""
    exclusive: Mapping[str, ExclusiveTasks] = field(default_factory=dict)
    """Exclusive tasks of instances that were asked for, by concurrency key."""


@dataclass(frozen=True, slots=True)
class Behind:
    """A database that is taken for a restored one: `why`, and how far it had come at least."""

    why: str
    known: int


class Generation(Protocol):
    """Remembers outside the database how far the database has come (its generation). Belongs to the writer's thread."""

    def compare(self, database: int, position: int) -> Behind | None:
        """Compare the database with what is remembered of it. None means that it is not behind. Raises OSError."""
        ...

    def begin(self, database: int, position: int) -> None:
        """Remember durably that the database has come so far, and follow it from now on. Raises OSError."""
        ...

    def reached(self, position: int) -> None:
        """Note a commit that is durable and that nobody has heard of yet. Never raises an error of the disk."""
        ...

    def sync(self) -> None:
        """Make durable what was said last. Never raises an error of the disk."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Restore:
    """A restore that was noticed, and queues that are paused for it. `data_at`: when the newest change of the database
    was made, None where it had no task; `live_tasks`: tasks of before that would run again."""

    noticed_at: float
    data_at: float | None
    queues: tuple[str, ...]
    live_tasks: int

    @property
    def advice(self) -> str:
        """Advise people what to do."""
        more = len(self.queues) - _NAMED
        names = " ".join(self.queues[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        return (
            "The database was restored, or is older than what was done with it. Live tasks in it may have run already, "
            "and what they put in place may have been replaced since; `longshore list --state live` shows them. Cancel "
            f"those that must not run again (`longshore cancel TASK`), then `longshore resume` each of: {names}"
        )


class Store(Protocol):
    """A store keeps the durable state. It may be used from the event loop that opened it only.

    `run` enqueues a command and returns its result when the transaction that carried it is committed. Cancelling the
    await does not take the command back. Raises the command's own LongshoreErrors, StoreOverloaded, StoreUnavailable.
    """

    async def open(self) -> None:
        """Check the schema (migrating it where that is safe) and start the writer. Raises SchemaMismatch."""
        ...

    async def close(self) -> None:
        """Commit what is waiting, then stop."""
        ...

    async def run(self, command: Command[R]) -> R: ...

    def begin(self, command: Command[R]) -> Future[R]:
        """Enqueue a command like `run`, without a coroutine for each, for a caller that has many under way. Raises
        StoreOverloaded and StoreUnavailable at once; every other error is in the future."""
        ...

    def subscribe(self, listener: Callable[[Changes], None], *, wants: Wants | None = None) -> Callable[[], None]:
        """Call `listener` on the loop after each commit that changed something, in commit order, before the futures of
        its commands resolve; returns the way to stop it.

        `wants` bounds what is read of other servers' commits, which costs both servers and database. A listener may
        hear of more than it wants. None means everything."""
        ...

    @property
    def trouble(self) -> str:
        """The error of the last commit that failed, for operators. Empty means that none did."""
        ...

    @property
    def writable_since(self) -> float | None:
        """Ticks since when every commit has succeeded (an idle store probes by itself); None while the last one
        failed."""
        ...

    # Reads see everything committed before the call. `creator` None means all callers; a task of another creator
    # reads as None.

    async def task(self, task_id: str, *, creator: str | None = None) -> Task | None: ...

    async def tasks_of_payload(self, payload_id: str) -> Sequence[Task]: ...

    async def list_tasks(
        self, where: TaskFilter, *, before: int | None, limit: int, most_bytes: int | None = None
    ) -> TaskPage:
        """List tasks, newest first: descending `seq`, below `before`; at most `limit`, and fewer, perhaps none, where
        the search has met many tasks that the filter leaves out.

        With `most_bytes` the page ends, after its first task, before one with which arguments, results, labels and
        errors would have more than so many bytes. What is left out is not read. None means that only `limit` bounds it.
        """
        ...

    async def blocking(self, keys: Collection[bytes]) -> Mapping[bytes, str]:
        """Return the id of the first live task for each destination key that has one."""
        ...

    async def unmet(self, task_ids: Sequence[str]) -> Mapping[str, str]:
        """Return, by their ids, the first dependency of each of these tasks that has one left."""
        ...

    async def request_summary(self, principal: str, request_id: str) -> RequestSummary | None:
        """Return what became of the tasks of a request. None means that the principal has made no tasks with it."""
        ...

    async def left_followers(self, *, limit: int = 100) -> Sequence[int]:
        """Return the numbers of ended tasks whose followers have not all heard of it, for ReleaseFollowers."""
        ...

    async def attempts(self, task_id: str, *, last: int | None = None) -> Sequence[Attempt]: ...

    async def attempts_after(self, task_id: str, *, number: int, limit: int) -> Sequence[Attempt]:
        """Return attempts with a greater number, oldest first; at most `limit`."""
        ...

    async def attempts_of(self, task_ids: Sequence[str], *, last: int) -> Mapping[str, Sequence[Attempt]]: ...

    async def history(self, task_id: str, *, after: int, limit: int = 500) -> Sequence[Task]:
        """Return the task at each revision after `after`, in order."""
        ...

    async def upload(self, principal: str, request_id: str) -> Upload | None:
        """Return the upload of this request, unless it is abandoned. A complete one has its payload and tasks."""
        ...

    async def payload(self, payload_id: str) -> Payload | None: ...

    async def kept_until(self, payload_id: str) -> float | None:
        """Return until when a payload that no live task needs is kept, by the wall clock. None means that one needs it,
        or that the payload is not kept."""
        ...

    async def inline_payload(self, payload_id: str) -> bytes | None:
        """Return the content of a payload kept in the database. None means that the content is in the spool."""
        ...

    async def sessions(self) -> Sequence[Session]: ...

    async def session(self, session_id: str) -> Session | None: ...

    async def parked(self, target: str) -> Sequence[Destination]:
        """Return the distinct instances (path empty) that tasks of the target are parked for."""
        ...

    async def debts(self, targets: Sequence[str], *, limit: int = 100) -> Sequence[Debt]:
        """Return the debts of these targets that may be paid now."""
        ...

    async def figures(self) -> Figures: ...

    async def conditions(self, instances: Iterable[InstanceKey], *, but: Collection[str] = ()) -> Conditions:
        """Return the facts that decide whether tasks on these instances are claimed. The holdings of the sessions in
        `but` are left out. The number of statements is bounded."""
        ...

    async def remarks(self) -> Mapping[str, Remark]:
        """Return the remarks of living sessions about themselves, by their ids."""
        ...

    async def served(self) -> Sequence[Served]:
        """Targets that a session has stopped to serve."""
        ...

    async def ended_sessions(self, *, since: float, also: Iterable[str] = ()) -> Sequence[EndedSession]:
        """Return the sessions that ended at `since` or later, the newest thousand, and those of `also` that have
        ended."""

    async def restored(self) -> Restore | None:
        """Return the restore from a backup that was noticed. None means that no queue is paused for one."""
        ...

    async def known_files(self, ids: Sequence[str], *, spool: str | None = None) -> frozenset[str]:
        """Find the ids (of uploads or payloads) that have a row: the spool's sweep leaves their files alone. With a
        `spool` (its identity) the answer omits those whose file is in another spool."""
        ...

    # Of several servers only.

    async def home(self, upload_id: str) -> Home | None:
        """Return the home of an upload, or of the payload that it became."""
        ...

    async def servers(self) -> Sequence[Server]:
        """Return the entries of all servers, dead ones included."""
        ...

    async def files_by_spool(self) -> Mapping[str, int]:
        """Count the uploads and payloads that have a file in each spool, by its identity."""
        ...

    async def tokens(self, ids: Sequence[str]) -> Sequence[Token]:
        """Return the tokens with these ids that exist, revoked and expired ones included."""
        ...

    async def has_valid_token(self) -> bool:
        """Return whether a token exists that is neither revoked nor expired."""
        ...
