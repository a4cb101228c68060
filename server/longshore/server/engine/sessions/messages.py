"""The messages of worker and server in a session are values here: those of the contract without protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from longshore.server.engine.watch import Progress
from longshore.server.model.events import Reported
from longshore.server.model.records import record
from longshore.server.model.task import Destination, Failure, Grant, Task
from longshore.server.model.values import State
from longshore.server.store.commands import BeginAnswer, GrantAnswer


class AttemptRef(NamedTuple):
    """Names an attempt."""

    task_id: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first message of a connection. `targets` maps names to identities, `kinds` to "its handler can settle";
    `epoch` is the one that the connection is to have, 0 for the next. `begins` means that the worker says when attempts
    that are to run alone begin."""

    session_id: str
    worker: str
    targets: Mapping[str, str]
    kinds: Mapping[str, bool]
    held: tuple[AttemptRef, ...] = ()
    version: str = ""
    dead_sessions: tuple[str, ...] = ()
    epoch: int = 0
    begins: bool = False
    revision: int = 0
    """The revision of the contract that the worker knows."""


@dataclass(frozen=True, slots=True)
class Ready:
    """An instance that parked tasks wait for; all of the target's if `instance` is empty."""

    target: str
    project: str
    instance: str
    running: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSays:
    """One message after the hello. An empty one says that the worker is alive."""

    credits: int | None = None
    heartbeat: int | None = None
    progress: tuple[tuple[str, Progress], ...] = ()
    """(task id, progress)."""
    reports: tuple[tuple[str, Reported], ...] = ()
    begins: tuple[AttemptRef, ...] = ()
    grants: tuple[tuple[str, Grant], ...] = ()
    ready: tuple[Ready, ...] = ()
    debts: tuple[tuple[str, bool], ...] = ()
    """(debt id, it is paid)."""
    targets: tuple[tuple[str, Failure | None], ...] = ()
    """(target, why it cannot be used). None means that it can."""
    goodbye: bool = False


@dataclass(frozen=True, slots=True)
class Welcome:
    """The server's first message. `lease` is in seconds."""

    epoch: int
    lease: float
    held: tuple[AttemptRef, ...]


@record
class Assignment:
    """An attempt whose claim is committed. Without `payload_path` and `content` the worker downloads the payload, if
    any."""

    task: Task
    payload_path: str = ""
    content: bytes = b""

    @property
    def ref(self) -> AttemptRef:
        return AttemptRef(self.task.id, self.task.status.attempt)

    @property
    def settles(self) -> bool:
        """Tell whether the attempt is to find out what became of a commit, and delivers nothing."""
        return self.task.status.state is State.SETTLING

    @property
    def alone(self) -> bool:
        """Tell whether nothing else may run beside the attempt. A settling attempt needs no protection from its
        neighbours, nor they from it."""
        return self.task.status.alone and not self.settles


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """An order to stop the attempt, which the server gives up after `grace` seconds."""

    ref: AttemptRef
    grace: float


@dataclass(frozen=True, slots=True)
class Revocation:
    """The attempt is lost to its worker: LEASE_LOST, TIMED_OUT or UNKNOWN_ATTEMPT."""

    ref: AttemptRef
    reason: str


@record
class ReportAck:
    """A report is durable, or stale."""

    ref: AttemptRef
    accepted: bool


@dataclass(frozen=True, slots=True)
class ParkedInstances:
    """Instances (their path is empty) that the session is to watch on a target. An empty tuple ends the watching."""

    target: str
    instances: tuple[Destination, ...]


@dataclass(frozen=True, slots=True)
class DebtOrder:
    """Temps to remove from the instance of `destination`."""

    debt_id: str
    destination: Destination
    temps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSays:
    """One message to a worker. `drain` and `go_away` are reasons; None means that the worker is not told to do so."""

    welcome: Welcome | None = None
    heartbeat_ack: int | None = None
    assignments: tuple[Assignment, ...] = ()
    begun: tuple[BeginAnswer, ...] = ()
    grants: tuple[GrantAnswer, ...] = ()
    cancels: tuple[CancelOrder, ...] = ()
    revocations: tuple[Revocation, ...] = ()
    acks: tuple[ReportAck, ...] = ()
    parked: tuple[ParkedInstances, ...] = ()
    debts: tuple[DebtOrder, ...] = ()
    drain: str | None = None
    go_away: str | None = None
