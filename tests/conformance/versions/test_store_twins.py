"""One history, two databases: commands in groups of any size are answered alike by SQLite, which carries them out one
statement at a time, and by PostgreSQL, where they are asked together, and leave the same rows and the same news.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa

from longshore.server.model.events import Policy, Reported
from longshore.server.model.servers import Here
from longshore.server.model.task import AnyValue, Failure, Grant, Job, Payload, Task, Upload
from longshore.server.model.values import DeliveryMethod, Outcome, Settlement, State, WaitReason
from longshore.server.store.commands import (
    AbandonIdleUploads,
    BeginAttempts,
    Bounds,
    CancelTask,
    Checkpoint,
    ClaimTasks,
    Command,
    Disconnect,
    DoomPayloads,
    DrainSession,
    ExtendLeases,
    FileReports,
    FinishUpload,
    ForgetPayloads,
    ForgetUploads,
    Offer,
    OpenSession,
    OpenUpload,
    PauseQueue,
    PurgeTasks,
    ReapSessions,
    RejectUpload,
    RenewLeases,
    RequestGrants,
    RetryTask,
    SettleTask,
    SubmitTasks,
    TaskPlan,
    Tick,
    WakeParked,
)
from longshore.server.store.commands.servers import AnnounceServer, Heard, HearUploads, RecordHome, RetireServer
from longshore.server.store.protocol import TaskFilter
from longshore.server.store.tables import schema
from longshore.server.store.transaction.limits import ConcurrencyLimits
from tests.support.stores.postgres import Cluster
from tests.support.stores.store import LEASE, ManualClock, StoreFleet, job, plan, push
from tests.support.stores.storekinds import PostgresKind, SQLiteKind, StoreKind

STEPS: Final = 60
"""Groups of commands. A long run of it is thousands, with other seeds."""

POLICY: Final = Policy(solo_limit=2, back_off_first=8.0, back_off_most=64.0, cancel_grace=20.0, settle_timeout=50.0)
LIMITS: Final = ConcurrencyLimits(instance=2, target=5)
SESSIONS: Final = {
    "s1": ({"default": "d1"}, {"file_push": True, "report": False}),
    "s2": ({"default": "d1", "other": "d2"}, {"file_push": True, "report": True}),
    "s3": ({"other": ""}, {"report": True, "naïve\u2028kind": False}),
}
REASON: Final = "no: \U0001f6a2 \"quoted\" \\u0000 \\ 'single' %(keys)s IN (%(keys)s) \u2028\n{}" + "x" * 20
BYTES: Final = bytes(range(256)) * 3
WORKS: Final = (
    push("/a", "web1"),
    push("/a", "web1", project="default"),
    push("/b", "web1"),
    push("/ünï/\u00e9 %s $1 \\x41", "web2"),
    push("/a", "web2", target="other"),
    job("report", target="default", instance="web1"),
    Job("report", AnyValue("type.example/\u00c4", BYTES), "other", "web2"),
    Job("naïve\u2028kind", AnyValue("", b""), "other", ""),
    job("report"),
)
BOUNDS: Final = (
    Bounds(),
    Bounds(queue_tasks=25, caller_tasks=15, uploads=6, caller_uploads=4, spool_bytes=2_000_000),
)
TABLES: Final = (
    schema.tasks, schema.submissions, schema.labels, schema.events, schema.attempts, schema.requests, schema.uploads,
    schema.payloads, schema.inline_payloads, schema.sessions, schema.targets, schema.queues, schema.debts,
    schema.counters, schema.sequence, schema.homes, schema.servers,
)  # fmt: skip


class Chance:
    """Draws the commands. What it knows of the stores it has from their answers."""

    def __init__(self, seed: int, clock: ManualClock) -> None:
        self._random = random.Random(seed)
        self._clock = clock
        self._numbers = 0
        self.tasks: list[Task] = []
        self.uploads: list[Upload] = []
        self.doomed: tuple[str, ...] = ()
        self.abandoned: tuple[str, ...] = ()
        self.epochs: dict[str, int] = {}

    def of(self, *choices: Any) -> Any:
        return self._random.choice(choices)

    def group(self) -> list[Command[Any]]:
        # Ids are drawn: in one group they often meet.
        return [command for _ in range(self.of(1, 2, 4, 12)) for command in self._some()]

    def _some(self) -> list[Command[Any]]:
        one = self._random.choices(
            (self._submit, self._upload, self._task, self._worker, self._claim, self._time, self._operator),
            weights=(6, 6, 8, 12, 6, 3, 2),
        )[0]()
        return [] if one is None else [one]

    def _number(self, few: int) -> int:
        """A new number, or one that came lately."""
        if not self.of(0, 0, 1):
            self._numbers += 1
            return self._numbers
        return max(1, self._numbers - self._random.randrange(few))

    def _plan(self) -> TaskPlan:
        return plan(
            self.of(*WORKS),
            queue=self.of("default", "default", "nïghtly"),
            priority=self.of(0, 0, 5, -5, 32767),
            labels=self.of({}, {"ü": "", "b": "\\ \" ' %s"}, {"a": "x" * 300}),
            not_before=self.of(0.0, 0.0, 0.0, 1 / 3, 30.0),
            expire_after=self.of(1e6, 1e6, 61.7, 0.1 + 0.2),
            run_timeout=self.of(100.1, 1e9),
            stall_timeout=self.of(None, 1e-9),
            attempt_limit=self.of(1, 2, 5),
        )

    def _plans(self) -> tuple[TaskPlan, ...]:
        return tuple(self._plan() for _ in range(self.of(1, 1, 2, 3)))

    def _submit(self) -> Command[Any]:
        named = self.of("", self.of("", *(upload.id for upload in self.uploads[-9:])))
        return SubmitTasks(
            principal=self.of("alice", "böb"),
            request_id=f"r{self._number(4)}",
            fingerprint=self.of("f", "f", "f", "g"),
            plans=self._plans(),
            payload_id=named,
            any_creator=self.of(True, False),
            bounds=self.of(*BOUNDS),
        )

    def _upload(self) -> Command[Any] | None:
        here = self.of(None, None, Here("server-1", "spool-1"), Here("server-2", "spool-2"))
        what = self.of("open", "open", "finish", "finish", "checkpoint", "checkpoint", "reject", "home", "hear")
        if what == "open" or not self.uploads:
            number = self._number(4)
            return OpenUpload(
                upload_id=f"u{self._numbers}-{self._random.getrandbits(40)}",
                principal=self.of("alice", "böb"),
                request_id=f"u{number}",
                fingerprint=self.of("f", "f", "f", "g"),
                queue=self.of("default", "nïghtly"),
                tasks=self.of(1, 2),
                size=self.of(None, 0, 2**62),
                sha256=self.of(b"", BYTES[:32]),
                reserve=self.of(0, 100_000, 2**40) if self.of(0, 0, 0, 1) else 1000,
                connect=self.of(True, True, True, False),
                bounds=self.of(*BOUNDS),
                here=here,
                spooled=self.of(True, False),
                take_over=self.of(True, False),
            )
        upload = self.of(*self.uploads[-6:])
        connection = upload.connection + self.of(0, 0, 0, 0, 1, -1)
        here = here or Here("server-1", "spool-1")
        match what:
            case "finish":
                inline = self.of(None, b"", BYTES)
                payload = Payload(upload.id, 768, self.of(0, 2**32 - 1), BYTES[:32])
                return FinishUpload(
                    upload_id=upload.id, connection=connection, payload=payload, plans=self._plans(), inline=inline,
                    homed=self.of(True, False),
                )  # fmt: skip
            case "checkpoint":
                return Checkpoint(
                    upload_id=upload.id, connection=connection, offset=self.of(None, 0, 2**33 + 1), crc32c=2**32 - 1,
                    reserve=self.of(0, 5000), bounds=self.of(*BOUNDS), release=self.of(True, False),
                )  # fmt: skip
            case "reject":
                return RejectUpload(upload_id=upload.id, connection=connection)
            case "home":
                return RecordHome(upload_id=upload.id, connection=connection, here=here)
            case _:
                heard = {one.id: Heard(one.id, one.connection, self.of(0.0, 1 / 3)) for one in self.uploads[-5:]}
                return HearUploads(here=here, uploads=tuple(heard.values()))

    def _task(self) -> Command[Any] | None:
        if not self.tasks:
            return None
        task = self.of(*self.tasks[-20:])
        revision = self.of(None, None, task.status.revision)
        creator = self.of(None, "alice", "böb")
        match self.of("cancel", "cancel", "retry", "settle"):
            case "cancel":
                reason = self.of("", REASON)
                return CancelTask(task_id=task.id, creator=creator, reason=reason, expected_revision=revision)
            case "retry":
                return RetryTask(
                    principal=self.of("alice", "böb"), creator=creator, task_id=task.id,
                    request_id=f"t{self._number(6)}", force=self.of(True, False), expected_revision=revision,
                    bounds=self.of(*BOUNDS),
                )  # fmt: skip
            case _:
                return SettleTask(task_id=task.id, settlement=self.of(*Settlement))

    def _worker(self) -> Command[Any] | None:
        held = [task for task in self.tasks if task.status.session_id]
        if not held:
            return None
        chosen = {task.id: task for task in self._random.choices(held, k=self.of(1, 1, 3))}
        (session, *_) = {task.status.session_id for task in chosen.values()}
        mine = [task for task in chosen.values() if task.status.session_id == session or self.of(0, 0, 0, 1)]
        epoch = self.epochs.get(session, 1) - self.of(0, 0, 0, 0, 0, 0, 1)
        if self.of(0, 0, 0, 1):
            attempts = tuple((task.id, task.status.attempt) for task in mine)
            return BeginAttempts(session_id=session, epoch=epoch, attempts=attempts)
        if self.of(True, False):
            return RequestGrants(
                session_id=session, epoch=epoch,
                requests=tuple(
                    (task.id, Grant(task.status.attempt, session, "/ü/.tmp", DeliveryMethod.SFTP, 0.0, mode=0o644))
                    for task in mine
                ),
            )  # fmt: skip
        return FileReports(
            session_id=session, epoch=epoch, reports=tuple((task.id, self._report(task, session)) for task in mine)
        )

    def _report(self, task: Task, session: str) -> Reported:
        settling = task.status.state is State.SETTLING
        outcomes = [each for each in Outcome if (each >= Outcome.SETTLED_REMOVED) is settling or self.of(0, 0, 0, 1)]
        outcome = self.of(Outcome.OK, *outcomes)
        return Reported(
            session,
            task.status.attempt,
            outcome,
            error=self.of(None, Failure("SOME_REASON", REASON, transient=True)),
            result=self.of(None, AnyValue("type.example/R", BYTES), AnyValue("", b"")),
            wait_reason=WaitReason.INSTANCE_STOPPED if outcome is Outcome.NOT_READY else WaitReason.NONE,
            retry_after=self.of(None, 1 / 3, 5.0),
            left_temps=self.of(True, False),
        )

    def _claim(self) -> Command[Any]:
        names = self._random.sample(sorted(SESSIONS), self.of(1, 2, 3))
        return ClaimTasks(
            offers=tuple(
                Offer(
                    session_id=name, epoch=self.epochs.get(name, 1), room=self.of(1, 2, 6), idle=self.of(True, False),
                    kept_for=frozenset(self.of((), ("default",))), begins=self.of(True, False),
                )
                for name in names
            )
        )  # fmt: skip

    def session(self, name: str) -> Command[Any]:
        targets, kinds = SESSIONS[name]
        held = tuple((t.id, t.status.attempt) for t in self.tasks if t.status.session_id == name and self.of(0, 1, 1))
        return OpenSession(
            session_id=name, worker=f"wörker {name}", principal="fleet", targets=targets, kinds=kinds, version="1",
            held=held, dead_sessions=self.of((), (), ("s1",) if name != "s1" else ()), lease=LEASE + 0.1,
        )  # fmt: skip

    def _time(self) -> Command[Any]:
        here = self.of(None, "spool-1", "spool-2")
        some: Command[Any] = self.of(
            Tick(limit=self.of(500, 2)),
            Tick(),
            ReapSessions(),
            RenewLeases(sessions=tuple(self.epochs.items()), lease=LEASE),
            ExtendLeases(lease=LEASE),
            AbandonIdleUploads(idle=self.of(0.0, 100.0), spool=here),
            ForgetUploads(upload_ids=self.abandoned, homes=self.of(True, False)),
            DoomPayloads(free=self.of(0, 1000), spool=here),
            ForgetPayloads(payload_ids=self.doomed, homes=self.of(True, False)),
            PurgeTasks(age=self.of(0.0, 200.0), limit=self.of(500, 3)),
        )
        return some

    def _operator(self) -> Command[Any]:
        name = self.of(*SESSIONS)
        some: Command[Any] = self.of(
            PauseQueue(queue="nïghtly", paused=self.of(True, False)),
            WakeParked(target="default", project="", instance=self.of("", "web1"), running=True, limit=self.of(2, 500)),
            self.session(name),
            self.session(name),
            Disconnect(session_id=name, epoch=self.epochs.get(name, 1), goodbye=self.of(True, False)),
            DrainSession(session_id="s3"),
            AnnounceServer(here=Here("server-1", "spool-1"), address="a:1", version="1"),
            RetireServer(here=Here("server-1", "spool-1")),
        )
        return some

    def learn(self, commands: list[Command[Any]], answers: list[Any], stored: list[Task]) -> None:
        self.tasks = sorted(stored, key=lambda task: task.submission.seq)
        for command, answer in zip(commands, answers, strict=True):
            match command:
                case _ if isinstance(answer, str):
                    pass
                case OpenUpload() | Checkpoint() | FinishUpload():
                    self.uploads = [one for one in self.uploads if one.id != answer.id] + [answer]
                case OpenSession():
                    self.epochs[command.session_id] = answer.session.epoch
                case DoomPayloads():
                    self.doomed = answer
                case AbandonIdleUploads():
                    self.abandoned = answer
                case _:
                    pass


def told(answer: Any) -> Any:
    return f"{type(answer).__name__}: {answer}" if isinstance(answer, BaseException) else answer


def news(fleet: StoreFleet) -> list[Any]:
    return [
        (each.task.id, each.task.status.revision, each.task.status.state, each.holder)
        for change in fleet.changes
        for each in change.tasks
    ]


def dumped(engine: sa.Engine, table: sa.Table) -> list[Any]:
    """All rows, without sums that are nothing and numbers that differ."""
    with engine.connect() as connection:
        rows = [row._asdict() for row in connection.execute(sa.select(table))]
    if table is schema.counters:
        # PostgreSQL has its own place for the position of the last commit.
        rows = [row for row in rows if row["value"] and row["scope"] != "commits"]
    if table is schema.sequence:
        rows = [row for row in rows if row["name"] == "tasks"]
    return sorted(str(sorted(row.items())) for row in rows)


async def together(fleet: StoreFleet, commands: list[Command[Any]]) -> list[Any]:
    return [told(each) for each in await fleet.together(*commands)]


async def run_twins(sqlite: StoreKind, postgres: StoreKind, *, seed: int, steps: int) -> None:
    async with AsyncExitStack() as stack:
        clocks = [ManualClock(seed=seed), ManualClock(seed=seed)]
        kinds: tuple[StoreKind, ...] = (sqlite, postgres)
        fleets = [
            StoreFleet(await stack.enter_async_context(kind.opened(clock, policy=POLICY, limits=LIMITS)), clock)
            for kind, clock in zip(kinds, clocks, strict=True)
        ]
        engines = [kind.dialect().engine for kind in kinds]
        chance = Chance(seed, clocks[0])
        commands: list[Command[Any]] = [chance.session(name) for name in SESSIONS]
        for step in range(steps):
            one, other = await asyncio.gather(*(together(fleet, commands) for fleet in fleets))
            for command, this, that in zip(commands, one, other, strict=True):
                assert this == that, (seed, step, command)
                assert not (isinstance(this, str) and "StoreUnavailable" in this), (seed, step, command, this)
            assert news(fleets[0]) == news(fleets[1]), (seed, step, commands)
            for fleet in fleets:
                fleet.changes.clear()
            stored = [await fleet.store.list_tasks(TaskFilter(), before=None, limit=10_000) for fleet in fleets]
            assert stored[0] == stored[1], (seed, step, commands)
            if step % 20 == 19 or step == steps - 1:
                for table in TABLES:
                    apart = set(dumped(engines[0], table)) ^ set(dumped(engines[1], table))
                    assert not apart, (seed, step, table.name, sorted(apart))
            chance.learn(commands, one, list(stored[0]))
            commands = chance.group()
            for clock in clocks:
                clock.advance(0.0 if step % 3 else 7.3)
        for fleet in fleets:
            await fleet.whole()
        for engine in engines:
            engine.dispose()


@pytest.mark.parametrize("seed", [1, 22])
async def test_a_history_is_the_same_on_both_databases(tmp_path: Path, postgres: Cluster, seed: int) -> None:
    with postgres.database() as url:
        await run_twins(SQLiteKind(tmp_path / "longshore.sqlite3"), PostgresKind(url), seed=seed, steps=STEPS)
