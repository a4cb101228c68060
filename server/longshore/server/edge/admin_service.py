"""AdminService shows figures and workers, pauses queues, and settles by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc.aio
import structlog

from longshore.server import version
from longshore.server.edge.auth.principal import principal
from longshore.server.edge.messages import fields, translate
from longshore.server.edge.messages.answer_room import AnswerRoom, fitting
from longshore.server.edge.target_figures import REMEMBERED, target_stats
from longshore.server.engine.servers import ServerFigures
from longshore.server.engine.sessions.sessions import WorkerFigures
from longshore.server.engine.target_attempts import TargetAttempts
from longshore.server.model.clock import Clock
from longshore.server.model.errors import InvalidField
from longshore.server.model.remarks import EndedSession, Problem
from longshore.server.model.task import Session
from longshore.server.model.values import Settlement, State
from longshore.server.store.commands import Bounds, PauseQueue, SettleTask
from longshore.server.store.protocol import Figures, Restore, Store
from longshore.v1 import admin_service_pb2 as pb
from longshore.v1 import admin_service_pb2_grpc as pb_grpc

_log = structlog.get_logger("longshore.admin")

_PROBLEM_BYTES = 256 << 10
"""The most bytes of one worker's problems. A worker may have a thousand targets, and 16 KiB to say of each."""

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminEngine:
    """Holds the parts of the engine that the service reads and delegates to."""

    store: Store
    clock: Clock
    bounds: Bounds
    spool_limit: Callable[[], int]
    """Bytes allowed in the spool. 0 means that only the disk bounds it."""
    watches: Callable[[], int]
    credits: Callable[[str], int]
    """Credits of a connected session; 0 for others."""
    drain: Callable[[str], Awaitable[WorkerFigures]]
    """Give a session no more work, and tell it. Raises NotFound."""
    finished: Counter[State]
    """Tasks finished since the start."""
    attempts: TargetAttempts
    problems: Callable[[], Mapping[str, Mapping[str, Problem]]]
    """Targets that workers connected here cannot use, by session."""
    changed: Callable[[], None]
    """To be called when a queue was paused or resumed: what was read of queues is not recent any more."""
    servers: Callable[[], Awaitable[Sequence[ServerFigures]]] | None = None
    """The servers of a database that several share."""


class AdminService(pb_grpc.AdminServiceServicer):
    """The RPCs of longshore.v1.AdminService."""

    def __init__(self, engine: AdminEngine) -> None:
        self._engine = engine
        self._store = engine.store

    async def GetStats(self, _request: pb.GetStatsRequest, _context: _Context) -> pb.GetStatsResponse:
        figures = await self._store.figures()
        sessions = await self._store.sessions()
        engine = self._engine
        restore = await self._store.restored()
        answer = pb.GetStatsResponse(
            restored=None if restore is None else _restored(restore),
            spool_bytes=figures.spool_bytes,
            spool_limit=engine.spool_limit(),
            uploads=figures.open_uploads,
            upload_limit=engine.bounds.uploads,
            watches=engine.watches(),
            version=version.VERSION,
            finished={state.name: count for state, count in engine.finished.items()},
        )
        room = AnswerRoom()
        servers = [_server(one) for one in await engine.servers()] if engine.servers is not None else []
        targets, queues = await self._targets(figures, sessions), self._queues(figures)
        kinds = sorted(figures.queued_kinds - {kind for session in sessions for kind in session.kinds})
        answer.servers.extend(fitting(servers, room))
        answer.targets.extend(fitting(targets, room))
        answer.queues.extend(fitting(queues, room))
        answer.unserved_kinds.extend(kind for kind in kinds if room.takes(len(kind)))
        known = len(servers) + len(targets) + len(queues) + len(kinds)
        answer.omitted = known - sum(
            len(shown) for shown in (answer.servers, answer.targets, answer.queues, answer.unserved_kinds)
        )
        return answer

    async def ListWorkers(self, request: pb.ListWorkersRequest, _context: _Context) -> pb.ListWorkersResponse:
        after = _position_of(request.page_token) if request.page_token else ("", "")
        problems = await self._problems()
        ended = await self._all_ended() if request.include_ended else ()
        known: list[tuple[Session, EndedSession | None]] = [(one, None) for one in await self._store.sessions()]
        known += [(one.session, one) for one in ended]
        known = sorted((one for one in known if _position(one[0]) > after), key=lambda one: _position(one[0]))
        rows = (self._worker(session, problems.get(session.id, {}), end) for session, end in known)
        shown = fitting(rows, AnswerRoom(), at_least=1)
        more = len(shown) < len(known)
        return pb.ListWorkersResponse(
            workers=shown, next_page_token="/".join(_position(known[len(shown) - 1][0])) if more else ""
        )

    async def DrainWorker(self, request: pb.DrainWorkerRequest, _context: _Context) -> pb.DrainWorkerResponse:
        if not request.session_id:
            raise InvalidField("session_id", "is empty; `longshore workers` lists the sessions.")
        figures = await self._engine.drain(request.session_id)
        _did("drain_worker", session_id=request.session_id)
        return pb.DrainWorkerResponse(worker=self._worker(figures.session, {}, None))

    async def PauseQueue(self, request: pb.PauseQueueRequest, _context: _Context) -> pb.PauseQueueResponse:
        await self._store.run(PauseQueue(queue=_queue(request.queue), paused=True, create=request.create))
        self._engine.changed()
        _did("pause_queue", queue=request.queue)
        return pb.PauseQueueResponse()

    async def ResumeQueue(self, request: pb.ResumeQueueRequest, _context: _Context) -> pb.ResumeQueueResponse:
        await self._store.run(PauseQueue(queue=_queue(request.queue), paused=False, create=False))
        self._engine.changed()
        _did("resume_queue", queue=request.queue)
        return pb.ResumeQueueResponse()

    async def SettleTask(self, request: pb.SettleTaskRequest, _context: _Context) -> pb.SettleTaskResponse:
        if not request.task_id:
            raise InvalidField("task_id", "is empty; give the id of a SETTLING task.")
        try:
            found = Settlement(request.settlement)
        except ValueError:
            raise InvalidField("settlement", "say what was found: REMOVED, LANDED or NEITHER.") from None
        task = await self._store.run(SettleTask(task_id=request.task_id, settlement=found))
        _did("settle", task_id=task.id, settlement=found.name)
        attempts = await self._store.attempts(task.id, last=translate.ATTEMPTS_SHOWN)
        return pb.SettleTaskResponse(task=translate.task(task, attempts=attempts))

    def _queues(self, figures: Figures) -> list[pb.QueueStats]:
        now = self._engine.clock.now()
        rows = []
        for one in figures.queues:
            row = pb.QueueStats(
                queue=one.queue,
                paused=one.paused,
                live={state.name: count for state, count in one.live.items()},
                limit=self._engine.bounds.queue_tasks,
            )
            if one.oldest_queued is not None:
                row.oldest_queued.CopyFrom(translate.duration(max(0.0, now - one.oldest_queued)))
            rows.append(row)
        return rows

    async def _targets(self, figures: Figures, sessions: Sequence[Session]) -> list[pb.TargetStats]:
        return target_stats(
            figures,
            sessions,
            problems=await self._problems(),
            served=await self._store.served(),
            attempts=self._engine.attempts,
            now=self._engine.clock.now(),
        )

    async def _problems(self) -> dict[str, Mapping[str, Problem]]:
        """Return the targets that workers cannot use, by session: the durable remarks, and for sessions connected here
        the last ones."""
        noted = {session_id: remark.problems for session_id, remark in (await self._store.remarks()).items()}
        return {**noted, **self._engine.problems()}

    async def _all_ended(self) -> Sequence[EndedSession]:
        last = [one.session_id for one in await self._store.served() if one.named]
        return await self._store.ended_sessions(since=self._engine.clock.now() - REMEMBERED, also=last)

    def _worker(self, session: Session, problems: Mapping[str, Problem], ended: EndedSession | None) -> pb.Worker:
        """Make the row of a session. `ended` None means that the session lives."""
        met = (
            pb.TargetProblem(
                target=target, reason=one.reason, message=one.message, since=translate.timestamp(one.since)
            )
            for target, one in sorted(problems.items())
        )
        row = pb.Worker(
            problems=fitting(met, AnswerRoom(_PROBLEM_BYTES)),
            session_id=session.id,
            name=session.worker,
            epoch=session.epoch,
            connected=session.connected and ended is None,
            draining=session.draining,
            credits=self._engine.credits(session.id),
            held=len(session.held),
            targets=sorted(session.targets),
            kinds=sorted(session.kinds),
            start_time=translate.timestamp(session.started_at),
            version=session.version,
        )
        if ended is not None:
            row.end = pb.SessionEnd.ValueType(ended.end)
            row.end_time.CopyFrom(translate.timestamp(ended.at))
        return row


def _position(session: Session) -> tuple[str, str]:
    """Return a session's place in the list."""
    return session.worker, session.id


def _position_of(token: str) -> tuple[str, str]:
    """Return the place after which a page begins. Raises InvalidField."""
    worker, slash, session_id = token.partition("/")
    if not slash:
        raise InvalidField("page_token", "was not made by this server; begin again without it.")
    return worker, session_id


def _did(action: str, **fields: object) -> None:
    """Log an operator's action, and the principal that asked for it."""
    _log.info("operator", action=action, principal=principal().name, **fields)


def _server(figures: ServerFigures) -> pb.ServerStats:
    server = figures.server
    row = pb.ServerStats(
        server_id=server.id,
        address=server.address,
        version=server.version,
        spool=server.spool,
        alive=figures.alive,
        files=figures.files,
        problem=figures.problem,
    )
    if figures.unseen is not None:
        row.start_time.CopyFrom(translate.timestamp(server.started_at))
        row.unseen.CopyFrom(translate.duration(figures.unseen))
    return row


def _restored(restore: Restore) -> pb.Restored:
    message = pb.Restored(
        notice_time=translate.timestamp(restore.noticed_at), live_tasks=restore.live_tasks, advice=restore.advice
    )
    if restore.data_at is not None:
        message.data_time.CopyFrom(translate.timestamp(restore.data_at))
    return message


def _queue(name: str) -> str:
    if not name:
        raise InvalidField("queue", "is empty; `longshore stats` lists the queues.")
    return fields.name("queue", name)
