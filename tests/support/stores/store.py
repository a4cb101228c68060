"""A store to test against, a clock that moves when told, and a fleet in a few words."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from longshore.server.model.events import Policy, Reported
from longshore.server.model.task import (
    AnyValue,
    Destination,
    FilePush,
    Grant,
    Job,
    Payload,
    Session,
    Task,
    Terms,
    Upload,
    Work,
)
from longshore.server.model.values import DeliveryMethod, Outcome, State
from longshore.server.store.commands import (
    BeginAnswer,
    BeginAttempts,
    Bounds,
    CancelTask,
    Claims,
    ClaimTasks,
    Command,
    FileReports,
    FinishUpload,
    ForgetUploads,
    GrantAnswer,
    Offer,
    OpenSession,
    OpenUpload,
    RejectUpload,
    RequestGrants,
    SubmitTasks,
    TaskPlan,
    Tick,
    Ticked,
)
from longshore.server.store.protocol import Changes
from longshore.server.store.sqlite.dialect import SQLiteStore
from longshore.server.store.store import SQLStore
from longshore.server.store.transaction.limits import ConcurrencyLimits
from longshore.server.store.transaction.memory import Memory

R = TypeVar("R")

LEASE = 30.0
"""Seconds that a session is believed alive here."""


class ManualClock:
    """Time that stands still until `advance`. Draws are random, from a seed."""

    def __init__(self, *, seed: int = 1) -> None:
        self._now = 1_800_000_000.0
        self._ticks = 1_000.0
        self._random = random.Random(seed)

    def now(self) -> float:
        return self._now

    def ticks(self) -> float:
        return self._ticks

    def jitter(self) -> float:
        return self._random.random()

    def advance(self, seconds: float) -> None:
        self._now += seconds
        self._ticks += seconds

    def reboot(self) -> None:
        """Ticks begin anew."""
        self._ticks = 5.0


def push(path: str = "/etc/motd", instance: str = "web1", **more: Any) -> FilePush:
    target = more.pop("target", "default")
    return FilePush(Destination(target, more.pop("project", ""), instance, path), **more)


def plan(work: Work | None = None, *, not_before: float = 0.0, **terms: Any) -> TaskPlan:
    """A plan with defaults for whatever is not said."""
    return TaskPlan(work or push(), Terms(**terms), not_before)


def submit(**more: Any) -> SubmitTasks:
    """A command with one plan, unless `more` says otherwise."""
    values: dict[str, Any] = {"principal": "alice", "request_id": "r", "fingerprint": "same", "plans": (plan(),)}
    return SubmitTasks(**(values | more))


def job(kind: str = "report", *, target: str = "", instance: str = "", **more: Any) -> Job:
    return Job(kind, AnyValue("type.example/Arguments", b"\x08\x01"), target, instance, **more)


class StoreFleet:
    """A fleet lets a test speak to a store in few words, and keeps what the store told its subscribers."""

    def __init__(self, store: SQLStore, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.changes: list[Changes] = []
        self._numbers = itertools.count(1)
        self._epochs: dict[str, int] = {}
        self._targets: dict[str, tuple[str, ...]] = {}
        store.subscribe(self.changes.append)

    async def run(self, command: Command[R]) -> R:
        return await self.store.run(command)

    async def together(self, *commands: Command[Any]) -> list[Any]:
        """Let all of them enter one transaction; answers with their results or errors."""
        writer = self.store._writer
        with writer._wake:
            futures = [writer.submit(command) for command in commands]
        return await asyncio.gather(*futures, return_exceptions=True)

    # Submitters ---------------------------------------------------------------------------------------------------

    async def submit(
        self, *plans: TaskPlan, principal: str = "alice", request_id: str = "", bounds: Bounds | None = None
    ) -> Sequence[Task]:
        """Tasks without bytes: the store does not mind."""
        return await self.run(
            SubmitTasks(
                principal=principal,
                request_id=request_id or f"request-{next(self._numbers)}",
                fingerprint="same",
                plans=plans or (plan(),),
                bounds=bounds or Bounds(),
            )
        )

    async def open_upload(self, **more: Any) -> Upload:
        number = next(self._numbers)
        values: dict[str, Any] = {
            "upload_id": f"upload-{number}",
            "principal": "alice",
            "request_id": f"request-{number}",
            "fingerprint": "same",
            "queue": "default",
            "tasks": 1,
            "size": None,
            "sha256": b"",
            "reserve": 100,
            "connect": True,
            "bounds": Bounds(),
        }
        return await self.run(OpenUpload(**(values | more)))

    async def upload(self, *plans: TaskPlan, size: int = 10, inline: bytes | None = None, **more: Any) -> Upload:
        """A whole upload with its tasks."""
        plans = plans or (plan(),)
        opened = await self.open_upload(**({"tasks": len(plans), "reserve": size} | more))
        return await self.run(
            FinishUpload(
                upload_id=opened.id,
                connection=opened.connection,
                payload=Payload(opened.id, size, 7),
                plans=plans,
                inline=inline,
            )
        )

    async def finish(self, upload: Upload, *plans: TaskPlan, size: int = 10) -> Upload:
        """Complete an upload that was opened."""
        return await self.run(
            FinishUpload(
                upload_id=upload.id,
                connection=upload.connection,
                payload=Payload(upload.id, size, 7),
                plans=plans or (plan(),),
            )
        )

    async def finish_without_tasks(self, upload: Upload, *, size: int = 10) -> Upload:
        """Complete an upload whose bytes are only kept."""
        payload = Payload(upload.id, size, 7)
        return await self.run(
            FinishUpload(upload_id=upload.id, connection=upload.connection, payload=payload, plans=())
        )

    async def reject(self, upload: Upload) -> None:
        """Give an upload up, and what it has reserved."""
        await self.run(RejectUpload(upload_id=upload.id, connection=upload.connection))
        await self.run(ForgetUploads(upload_ids=(upload.id,)))

    async def cancel(self, task: Task) -> Task:
        return await self.run(CancelTask(task_id=task.id, creator=None, reason="enough"))

    # Workers ------------------------------------------------------------------------------------------------------

    async def session(
        self,
        name: str = "session-1",
        *,
        targets: Mapping[str, str] | None = None,
        kinds: Mapping[str, bool] | None = None,
        held: Sequence[tuple[str, int]] = (),
        **more: Any,
    ) -> Session:
        """Connect, or connect again."""
        opened = await self.run(
            OpenSession(
                session_id=name,
                worker=more.pop("worker", f"worker of {name}"),
                principal=more.pop("principal", "fleet"),
                targets={"default": "daemon"} if targets is None else targets,
                kinds={"file_push": True, "report": False} if kinds is None else kinds,
                version="1",
                held=tuple(held),
                dead_sessions=tuple(more.pop("dead_sessions", ())),
                lease=more.pop("lease", LEASE),
                epoch=more.pop("epoch", 0),
                revision=more.pop("revision", 0),
            )
        )
        assert not more
        self._epochs[name] = opened.session.epoch
        self._targets[name] = tuple(opened.session.targets)
        return opened.session

    def epoch(self, session: str) -> int:
        return self._epochs[session]

    def offer(
        self,
        session: str = "session-1",
        *,
        room: int = 1,
        idle: bool = True,
        kept_for: Iterable[str] = (),
        begins: bool = False,
        revision: int = 0,
    ) -> Offer:
        return Offer(
            session_id=session,
            epoch=self._epochs[session],
            room=room,
            idle=idle,
            targets=self._targets.get(session, ()),
            kept_for=frozenset(kept_for),
            begins=begins,
            revision=revision,
        )

    async def offers(self, *offers: Offer) -> Claims:
        return await self.run(ClaimTasks(offers=offers))

    async def claim(self, session: str = "session-1", *, room: int = 1, idle: bool = True) -> list[Task]:
        claims = await self.offers(self.offer(session, room=room, idle=idle))
        assert all(taker == session for taker, _ in claims.taken)
        return [task for _, task in claims.taken]

    async def claim_one(self, session: str = "session-1") -> Task:
        taken = await self.claim(session)
        assert len(taken) == 1
        return taken[0]

    async def begin(self, task: Task, session: str = "session-1", *, epoch: int = 0) -> BeginAnswer:
        epoch = epoch or self._epochs[session]
        attempts = ((task.id, task.status.attempt),)
        (answer,) = await self.run(BeginAttempts(session_id=session, epoch=epoch, attempts=attempts))
        return answer

    def granting(self, task: Task, session: str = "session-1", *, temp: str = "/etc/.motd.tmp") -> RequestGrants:
        """The command of `grant`."""
        wanted = Grant(task.status.attempt, session, temp, DeliveryMethod.SFTP, 0.0, crc32c=7, mode=0o644, uid=0, gid=0)
        return RequestGrants(session_id=session, epoch=self._epochs[session], requests=((task.id, wanted),))

    async def grant(self, task: Task, session: str = "session-1", *, temp: str = "/etc/.motd.tmp") -> GrantAnswer:
        answers = await self.run(self.granting(task, session, temp=temp))
        return answers[0]

    def reporting(self, task: Task, outcome: Outcome, session: str = "session-1", **more: Any) -> FileReports:
        """The command of `report`."""
        said = Reported(session, more.pop("attempt", task.status.attempt), outcome, **more)
        return FileReports(session_id=session, epoch=self._epochs[session], reports=((task.id, said),))

    async def report(self, task: Task, outcome: Outcome, session: str = "session-1", **more: Any) -> bool:
        answers = await self.run(self.reporting(task, outcome, session, **more))
        return answers[0]

    async def deliver(self, task: Task, session: str = "session-1") -> Task:
        """Grant and success."""
        assert (await self.grant(task, session)).granted
        assert await self.report(task, Outcome.OK, session)
        return await self.now(task)

    # Looking ------------------------------------------------------------------------------------------------------

    async def now(self, task: Task) -> Task:
        found = await self.store.task(task.id)
        assert found is not None
        return found

    async def state(self, task: Task) -> State:
        return (await self.now(task)).status.state

    async def states(self, *tasks: Task) -> list[str]:
        return [(await self.state(task)).name for task in tasks]

    async def tick(self) -> Ticked:
        return await self.run(Tick())

    async def whole(self) -> None:
        """Check the counters, which must always be right."""
        assert await self.store.verify_counters() == []


@asynccontextmanager
async def opened_sqlite(
    path: Path,
    clock: ManualClock,
    *,
    policy: Policy | None = None,
    limits: ConcurrencyLimits | None = None,
    memory: Memory | None = None,
) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(
        path=path, clock=clock, policy=policy or Policy(), limits=limits or ConcurrencyLimits(), memory=memory
    )
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def without_deadline(task: Task) -> Task:
    """A task as its history tells it: deadlines are moved at a server's start without a revision."""
    return replace(task, status=replace(task.status, deadline_ticks=None))
