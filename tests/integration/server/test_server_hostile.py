"""The contract's errors, over the wire, for callers that send what nobody should: a status with its reason, always."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from longshore.v1 import admin_service_pb2 as admin
from longshore.v1 import admin_service_pb2_grpc, task_pb2, task_service_pb2_grpc, worker_service_pb2_grpc
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import worker_service_pb2 as work
from tests.support.servers.processes import ServerProcess

LARGEST = 2**64 - 1
IDS = {"long": "x" * 1_000_000, "NUL": "a\0b", "wide": "☃" * 100_000, "backwards": "\u202e", "escape": "\x1b[2J"}


@dataclass(frozen=True, slots=True)
class Refusal:
    code: grpc.StatusCode
    reason: str
    field: str


class Caller:
    """Bare stubs, and what they are refused with."""

    def __init__(self, server: ServerProcess, channel: grpc.Channel) -> None:
        self.server = server
        self._metadata = (("authorization", f"Bearer {server.token}"),)
        # The stubs are typed for asyncio's channels only.
        aio: Any = channel
        self.tasks: Any = task_service_pb2_grpc.TaskServiceStub(aio)
        self.admin: Any = admin_service_pb2_grpc.AdminServiceStub(aio)
        self.work: Any = worker_service_pb2_grpc.WorkerServiceStub(aio)

    def call(self, method: Any, request: Any) -> Any:
        answer: Any = method(request, metadata=self._metadata, timeout=20.0)
        return list(answer) if hasattr(answer, "__next__") else answer

    def refused(self, method: Any, request: Any) -> Refusal:
        with pytest.raises(grpc.RpcError) as raised:
            self.call(method, request)
        error: Any = raised.value
        status = rpc_status.from_call(error)
        assert status is not None, f"no details: {error.code()} {error.details()[:200]}"
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        for detail in status.details:
            if not detail.Unpack(info):
                detail.Unpack(bad)
        assert info.domain == "longshore"
        return Refusal(error.code(), info.reason, bad.field_violations[0].field if bad.field_violations else "")

    def job(self) -> task_pb2.Task:
        spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="nobodys"))
        task: task_pb2.Task = self.call(self.tasks.SubmitTask, pb.SubmitTaskRequest(spec=spec)).tasks[0]
        return task


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[Caller]:
    with (
        ServerProcess(tmp_path_factory.mktemp("hostile")) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield Caller(server, channel)
        assert not list(server.events("defect"))


BY_TASK: dict[str, Callable[[Caller, str], tuple[Any, Any]]] = {
    "GetTask": lambda c, one: (c.tasks.GetTask, pb.GetTaskRequest(task_id=one)),
    "ListAttempts": lambda c, one: (c.tasks.ListAttempts, pb.ListAttemptsRequest(task_id=one)),
    "WatchTask": lambda c, one: (c.tasks.WatchTask, pb.WatchTaskRequest(task_id=one)),
    "CancelTask": lambda c, one: (c.tasks.CancelTask, pb.CancelTaskRequest(task_id=one)),
    "RetryTask": lambda c, one: (c.tasks.RetryTask, pb.RetryTaskRequest(task_id=one)),
    "DrainWorker": lambda c, one: (c.admin.DrainWorker, admin.DrainWorkerRequest(session_id=one)),
    "SettleTask": lambda c, one: (
        c.admin.SettleTask,
        admin.SettleTaskRequest(task_id=one, settlement=admin.SETTLEMENT_LANDED),
    ),
}


@pytest.mark.parametrize("given", IDS.values(), ids=IDS)
@pytest.mark.parametrize("method", BY_TASK)
def test_any_unknown_id_is_not_found(caller: Caller, method: str, given: str) -> None:
    assert caller.refused(*BY_TASK[method](caller, given)) == Refusal(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "")


@pytest.mark.parametrize("method", BY_TASK)
def test_an_empty_id_is_named(caller: Caller, method: str) -> None:
    refusal = caller.refused(*BY_TASK[method](caller, ""))
    field = "session_id" if method == "DrainWorker" else "task_id"
    assert refusal == Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field)


@pytest.mark.parametrize("given", ["", "A", "x" * 64, *IDS.values()], ids=["empty", "upper", "64", *IDS])
def test_only_a_queue_that_can_be_is_paused(caller: Caller, given: str) -> None:
    wrong = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "queue")
    assert caller.refused(caller.admin.PauseQueue, admin.PauseQueueRequest(queue=given)) == wrong
    assert caller.refused(caller.admin.ResumeQueue, admin.ResumeQueueRequest(queue=given)) == wrong
    queues = caller.call(caller.admin.GetStats, admin.GetStatsRequest()).queues
    assert {row.queue for row in queues} <= {"default"}


def token(value: object) -> str:
    raw = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")


def forged(caller: Caller, seq: object) -> str:
    """A token of the server's own with another place in it."""
    caller.job()
    caller.job()
    page = caller.call(caller.tasks.ListTasks, pb.ListTasksRequest(page_size=1)).next_page_token
    version, _, made_for = json.loads(base64.urlsafe_b64decode(page + "=" * (-len(page) % 4)))
    return token([version, seq, made_for])


@pytest.mark.parametrize("seq", [10**30, 2**63, -1, True, "1", 1.5, None, []])
def test_a_forged_page_token_is_refused(caller: Caller, seq: object) -> None:
    request = pb.ListTasksRequest(page_token=forged(caller, seq))
    wrong = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "page_token")
    assert caller.refused(caller.tasks.ListTasks, request) == wrong


@pytest.mark.parametrize("given", ["é", "x", token("[" * 200_000), token([1, 2]), token("9" * 5000), token({})])
def test_an_invalid_page_token_is_refused(caller: Caller, given: str) -> None:
    wrong = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "page_token")
    assert caller.refused(caller.tasks.ListTasks, pb.ListTasksRequest(page_token=given)) == wrong


@pytest.mark.parametrize("revision", [2, 2**63 - 1, 2**63, LARGEST])
def test_a_revision_ahead_is_refused(caller: Caller, revision: int) -> None:
    task = caller.job()
    request = pb.WatchTaskRequest(task_id=task.id, after_revision=revision)
    ahead = Refusal(grpc.StatusCode.OUT_OF_RANGE, "REVISION_AHEAD", "")
    assert caller.refused(caller.tasks.WatchTask, request) == ahead
    mismatch = Refusal(grpc.StatusCode.ABORTED, "REVISION_MISMATCH", "")
    cancel = pb.CancelTaskRequest(task_id=task.id, expected_revision=revision)
    assert caller.refused(caller.tasks.CancelTask, cancel) == mismatch
    assert caller.call(caller.tasks.GetTask, pb.GetTaskRequest(task_id=task.id)).task.revision == 1


@pytest.mark.parametrize("given", IDS.values(), ids=IDS)
def test_ids_of_uploads_and_payloads(caller: Caller, given: str) -> None:
    refusal = caller.refused(caller.tasks.GetUpload, pb.GetUploadRequest(request_id=given))
    assert refusal == Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "request_id")
    spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="nobodys"))
    refusal = caller.refused(caller.tasks.SubmitTask, pb.SubmitTaskRequest(spec=spec, payload_id=given))
    assert refusal == Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "payload_id")
    refusal = caller.refused(caller.tasks.SubmitTask, pb.SubmitTaskRequest(spec=spec, request_id=given))
    assert refusal == Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "request_id")


def test_a_download_for_an_unknown_attempt_is_refused(caller: Caller) -> None:
    ref = work.AttemptRef(task_id="x", attempt=1)
    request = work.DownloadPayloadRequest(session_id="s" * 100_000, attempt=ref, offset=LARGEST)
    refusal = caller.refused(caller.work.DownloadPayload, request)
    assert refusal == Refusal(grpc.StatusCode.PERMISSION_DENIED, "NOT_YOUR_ATTEMPT", "")
