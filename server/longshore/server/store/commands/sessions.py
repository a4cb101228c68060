"""Commands of sessions: claims, grants, reports, leases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from longshore.server.model.events import Reported
from longshore.server.model.remarks import Remark
from longshore.server.model.task import Grant, Session, Task
from longshore.server.store.commands.base import Command, Urgency


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
    revision: int = 0
    """The revision of the contract that the session's worker knows: tasks that need a later one are not for it."""
    kept_for: frozenset[str] = frozenset()
    """Targets that the session serves and holds nothing of: room for one attempt each is kept for them (`Shares`)."""
    targets: tuple[str, ...] = ()
    """Targets that the session serves, as far as they are known, so that their counters are read along with the
    session."""


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
    revision: int = 0
    """The revision of the contract that the worker knows."""


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
    connection."""

    session_id: str
    epoch: int
    remark: Remark


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainSession(Command[Session]):
    """Give this session no more work. Raises NotFound."""

    session_id: str
