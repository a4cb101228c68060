"""A server that works while its database is in trouble, and what everybody around it sees meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from longshore.client import Client, push_spec
from longshore.v1 import task_pb2, task_service_pb2_grpc
from longshore.v1 import task_service_pb2 as pb
from tests.support.servers.processes import ServerProcess, WorkerProcess, eventually
from tests.support.servers.stage import Stage

IN_VAIN: Final = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED})
"""Callers that asked before the server knew that the database hangs get this code: their own deadline passed."""
SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
LEASE: Final = 2.0
"""Seconds; shorter than most troubles."""

_ASK_EVERY: Final = 0.02
_PATIENCE: Final = 9.0
"""Seconds; longer than a server takes to find out what became of a COMMIT (`postgres_connection.RESOLVE`)."""
_TREE: Final = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class CommandAnswer:
    """A caller without any patience got this answer. None for `reason` or `retry` means that the status has none."""

    call: str
    code: grpc.StatusCode
    reason: str | None
    retry: float | None


class Scene:
    """A server with a worker that runs one attempt all the time, a client with patience that pushes file after file,
    callers without patience, an open watch, and somebody who watches the health."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.server = stage.server
        self.answers: list[CommandAnswer] = []
        self.pushed: list[str] = []
        self.wrong: list[str] = []
        self.health: list[int] = []
        self.watched: list[str] = []
        self.watch_ended: str | None = None
        self._leaving = threading.Event()
        self._pause = threading.Event()
        self._file = stage.root / "go on"
        self._channel = grpc.insecure_channel(self.server.address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._metadata = (("authorization", f"Bearer {self.server.token}"),)
        channel: Any = self._channel
        self._tasks: Any = task_service_pb2_grpc.TaskServiceStub(channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)
        spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="until", arguments=_any(str(self._file))))
        (self._long,) = stage.client.submit(spec=spec)
        self._threads = [
            threading.Thread(target=each, daemon=True)
            for each in (self._ask, self._push, self._watch, self._watch_health)
        ]

    def begin(self) -> None:
        self._session = self.stage.reaches(self._long.id, task_pb2.TASK_STATE_RUNNING).attempts[-1].session_id
        for each in self._threads:
            each.start()
        eventually(lambda: self.watched and self.pushed and self.health)

    def end(self) -> None:
        """Everything that was begun ends well."""
        self._leaving.set()
        for each in self._threads[:2]:
            each.join(60)
            assert not each.is_alive()
        self._file.touch()
        self._threads[2].join(60)
        assert self.watched[-1] == "SUCCEEDED", self.watch_ended
        for task_id in self.pushed:
            task = self.stage.reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)
            assert task.state == task_pb2.TASK_STATE_SUCCEEDED
        assert len({*self.pushed}) == len(self.pushed)

    def close(self) -> None:
        self._leaving.set()
        self._channel.close()

    # What tests wait for ----------------------------------------------------------------------------------------------

    def notices(self) -> None:
        """Health says NOT_SERVING, of everything but the process's life."""
        eventually(lambda: self.health[-1] == NOT_SERVING, what=f"NOT_SERVING, was {self.health}")
        for service, expected in (("longshore.v1.TaskService", NOT_SERVING), ("liveness", SERVING)):
            assert self._health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status == expected

    def refuses(self) -> None:
        """A caller that submits now learns that the store is not available."""
        before = len(self.answers)
        eventually(
            lambda: any(each.call == "submit" and each.reason for each in self.answers[before:]), what="a refusal"
        )

    def recovers(self, *, may: frozenset[grpc.StatusCode] = frozenset()) -> None:
        """Wait until the server serves by itself, and begun work goes on. Callers may have got the codes `may` too."""
        eventually(lambda: self.health[-1] == SERVING, what=f"SERVING, was {self.health}")
        self.goes_on(2)
        self._is_whole(may)

    def goes_on(self, files: int, *, within: float = 30.0) -> None:
        """That many more files are delivered."""
        goal = len(self.pushed) + files
        eventually(lambda: len(self.pushed) >= goal, within=within, what=f"files delivered; {self.wrong}")

    def _is_whole(self, may: frozenset[grpc.StatusCode]) -> None:
        """Nobody was told anything false, and nothing was lost that ran."""
        assert not self.wrong, self.wrong
        for each in self.answers:
            if each.code is grpc.StatusCode.OK or each.code in may:
                continue
            told = (each.code, each.reason, each.retry is not None)
            assert told == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", True), each
        assert self.watch_ended is None, self.watch_ended
        task = self.stage.client.get(self._long.id)
        assert (task.state, len(task.attempts)) == (task_pb2.TASK_STATE_RUNNING, 1)
        assert task.attempts[-1].session_id == self._session
        self.answers.clear()

    # Who is around ----------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        number = 0
        spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="nobodys"))
        while not self._leaving.wait(_ASK_EVERY):
            number += 1
            if number % 2:
                self._answer("get", lambda: self._tasks.GetTask, pb.GetTaskRequest(task_id=self._long.id))
            else:
                request = pb.SubmitTaskRequest(spec=spec, request_id=f"asked-{number}")
                self._answer("submit", lambda: self._tasks.SubmitTask, request)

    def _answer(self, name: str, call: Callable[[], Any], request: Any) -> None:
        try:
            answer = call()(request, metadata=self._metadata, timeout=_PATIENCE)
        except grpc.RpcError as error:
            self.answers.append(_told(name, error))
            return
        if name == "get" and answer.task.id != self._long.id:
            self.wrong.append(f"{name}: {answer}")
        self.answers.append(CommandAnswer(name, grpc.StatusCode.OK, None, None))

    def _push(self) -> None:
        with Client(server=self.server.address, token_file=self.server.token_file, patience=120.0) as client:
            while not self._leaving.wait(_ASK_EVERY):
                number = len(self.pushed)
                content = os.urandom(200_000)
                (task,) = client.upload(content, spec=push_spec(f"web/etc/{number}"))
                done = client.wait(task.id)
                place = self.stage.instances / "web/etc" / str(number)
                if done.state != task_pb2.TASK_STATE_SUCCEEDED or place.read_bytes() != content:
                    self.wrong.append(f"push {number}: {done}")
                self.pushed.append(task.id)

    def _watch(self) -> None:
        try:
            for update in self._tasks.WatchTask(pb.WatchTaskRequest(task_id=self._long.id), metadata=self._metadata):
                if update.HasField("task"):
                    self.watched.append(task_pb2.TaskState.Name(update.task.state).removeprefix("TASK_STATE_"))
        except grpc.RpcError as error:
            self.watch_ended = str(error)

    def _watch_health(self) -> None:
        try:
            for answer in self._health.Watch(health_pb2.HealthCheckRequest()):
                self.health.append(answer.status)
        except grpc.RpcError:
            self.health.append(-1)


def _told(name: str, error: Any) -> CommandAnswer:
    reason = retry = None
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info, after = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(after):
            retry = after.retry_delay.ToTimedelta().total_seconds()
    return CommandAnswer(name, error.code(), reason, retry)


def _any(text: str) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(StringValue(value=text))
    return packed


@contextmanager
def scene_on(root: Path, url: str, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Scene]:
    """The scene on that database, begun. Everything that was begun must end well."""
    with ExitStack() as stack:
        server = stack.enter_context(
            ServerProcess(
                root, "--database", url, "--lease", f"{LEASE:g}s", *options, environment=dict(environment or {})
            )
        )
        client = stack.enter_context(Client(server=server.address, token_file=server.token_file, patience=60.0))
        stage = Stage(root, server, client)
        paths = os.pathsep.join([str(_TREE), os.environ.get("PYTHONPATH", "")])
        handlers = ("--handlers", "tests.support.workers.waiting_handlers:registry")
        worker: WorkerProcess = stage.worker(*handlers, environment={"PYTHONPATH": paths})
        stack.enter_context(worker)
        scene = Scene(stage)
        stack.callback(scene.close)
        scene.begin()
        yield scene
        scene.end()
