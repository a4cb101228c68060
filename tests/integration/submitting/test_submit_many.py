"""SubmitTasks against a real engine: each of many stands by itself, durable, known again, and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from longshore.client import AsyncClient, Submission, Unauthenticated, job_spec
from longshore.client import push_spec as push_of
from longshore.server.edge.submission_stream import ANSWERED, WAITING, WAITING_BYTES
from longshore.server.engine.uploads.limits import UploadLimits
from longshore.server.model.task import Task
from longshore.server.store.commands import Bounds, Command
from longshore.server.store.protocol import Store, TaskFilter
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from tests.support.servers.rawgrpc import LARGEST_MESSAGE, METADATA, TaskServer, header_of, push_spec, whole
from tests.support.servers.stage import staged
from tests.support.stores.wrapped import Wrapped
from tests.support.waiting import until

JOB = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="count"))
PATIENCE = 30.0


def submission(number: int, request_id: str, spec: task_pb2.TaskSpec = JOB) -> pb.Submission:
    return pb.Submission(number=number, request=pb.SubmitTaskRequest(request_id=request_id, spec=spec))


def message(*submissions: pb.Submission) -> pb.SubmitTasksRequest:
    return pb.SubmitTasksRequest(submissions=submissions)


async def answers_of(call: Any, count: int) -> dict[int, pb.SubmissionAnswer]:
    found: dict[int, pb.SubmissionAnswer] = {}
    while len(found) < count:
        response = await call.read()
        assert response is not grpc.aio.EOF, f"{len(found)} of {count}"
        found.update({answer.number: answer for answer in response.answers})
    return found


async def all_of(server: TaskServer, messages: Iterable[pb.SubmitTasksRequest]) -> dict[int, pb.SubmissionAnswer]:
    call: Any = server.stub.SubmitTasks(iter(messages), metadata=METADATA)
    return {answer.number: answer async for response in call for answer in response.answers}


def error_of(answer: pb.SubmissionAnswer) -> tuple[int, str]:
    """Code and reason of a refusal, from its google.rpc.Status."""
    status = status_pb2.Status.FromString(answer.status)
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert info.reason == answer.reason
    return status.code, info.reason


async def test_every_answer_names_tasks_that_are_durable(server: TaskServer) -> None:
    messages = [message(*(submission(50 * m + n, f"r{m}-{n}") for n in range(50))) for m in range(40)]
    answers = await all_of(server, messages)
    assert sorted(answers) == list(range(2000))
    ids = {task_id for answer in answers.values() for task_id in answer.task_ids}
    assert len(ids) == 2000
    first = await server.store.task(answers[0].task_ids[0])
    assert first is not None
    assert first.submission.request_id == "r0-0"


async def test_tasks_are_accepted_in_the_order_of_the_stream(server: TaskServer) -> None:
    answers = await all_of(
        server, [message(*(submission(n, f"r{n}") for n in range(m, m + 7))) for m in range(0, 70, 7)]
    )
    in_order = [answers[number].task_ids[0] for number in range(70)]
    assert in_order == sorted(in_order)


async def test_the_same_request_id_gives_the_same_tasks_over_any_way(server: TaskServer) -> None:
    alone = await server.submit(pb.SubmitTaskRequest(request_id="r", spec=JOB))
    answers = await all_of(server, [message(submission(1, "r"), submission(2, "r")), message(submission(3, "r"))])
    assert {tuple(answer.task_ids) for answer in answers.values()} == {(alone.tasks[0].id,)}
    assert len(await server.tasks()) == 1


async def test_an_error_names_the_submission_that_it_belongs_to(server: TaskServer) -> None:
    other = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="other"))
    wrong = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="NO SUCH NAME"))
    answers = await all_of(
        server,
        [message(submission(1, "a"), submission(2, "b", wrong), submission(3, "a", other), submission(4, "d"))],
    )
    assert len(answers[1].task_ids) == len(answers[4].task_ids) == 1
    assert error_of(answers[2])[0] == code_pb2.INVALID_ARGUMENT
    assert error_of(answers[3]) == (code_pb2.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert not answers[2].task_ids
    assert not answers[3].task_ids


async def test_a_push_without_payload_is_refused_by_itself(server: TaskServer) -> None:
    answers = await all_of(server, [message(submission(1, "a", push_spec("web")), submission(2, "b"))])
    assert error_of(answers[1])[0] == code_pb2.INVALID_ARGUMENT
    assert answers[2].task_ids


async def test_a_full_queue_refuses_only_the_excess(tmp_path: Path) -> None:
    limits = UploadLimits(inline_bytes=0, patience=0.2, detach=10.0, bounds=Bounds(queue_tasks=5))
    async with TaskServer(tmp_path, limits=limits) as server, asyncio.timeout(PATIENCE):
        answers = await all_of(server, [message(*(submission(n, f"r{n}") for n in range(8)))])
        refused = [answer for answer in answers.values() if answer.reason]
        assert len(refused) == 3
        assert {error_of(answer) for answer in refused} == {(code_pb2.RESOURCE_EXHAUSTED, "QUEUE_FULL")}
        assert len(await server.tasks()) == 5


async def test_after_a_cut_the_same_again_makes_no_second_task(server: TaskServer) -> None:
    call: Any = server.stub.SubmitTasks(metadata=METADATA)
    await call.write(message(*(submission(n, f"r{n}") for n in range(100))))
    await answers_of(call, 1)
    call.cancel()
    answers = await all_of(server, [message(*(submission(n, f"r{n}") for n in range(100)))])
    assert len({answer.task_ids[0] for answer in answers.values()}) == 100
    assert len(await server.tasks()) == 100


async def test_a_caller_that_reads_no_answers_is_read_no_further(server: TaskServer) -> None:
    call: Any = server.stub.SubmitTasks(metadata=METADATA)
    wrong = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="NO SUCH NAME"))
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while True:
            await call.write(message(*(submission(sent + n, "r", wrong) for n in range(500))))
            sent += 500

    flooding = asyncio.create_task(flood())
    # Until no write gets through any more, which it never would if the server kept reading.
    before = -1
    while before != sent:
        before = sent
        await asyncio.wait((flooding,), timeout=2.0)
    assert sent > WAITING + ANSWERED
    flooding.cancel()
    call.cancel()
    assert (await server.submit(pb.SubmitTaskRequest(request_id="other", spec=JOB))).tasks


class HoldingStore(Wrapped):
    """The real one, but that what is begun waits until it is released, and then comes out as `tasks`."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.tasks: tuple[Task, ...] | None = None
        self.held: list[asyncio.Future[Any]] = []

    def begin(self, command: Command[Any]) -> asyncio.Future[Any]:
        if self.tasks is None:
            begun: asyncio.Future[Any] = self.inner.begin(command)
            return begun
        self.held.append(asyncio.get_running_loop().create_future())
        return self.held[-1]

    def release(self) -> None:
        held, self.held = self.held, []
        for each in held:
            each.set_result(self.tasks)


@pytest.fixture
async def holding(tmp_path: Path) -> AsyncIterator[tuple[TaskServer, HoldingStore]]:
    made: list[HoldingStore] = []

    def store_of(store: Store) -> Any:
        made.append(HoldingStore(store))
        return made[-1]

    async with TaskServer(tmp_path, store_of=store_of) as server, asyncio.timeout(90):
        yield server, made[-1]


@pytest.mark.parametrize(("size", "most"), [(0, WAITING), (60 * 1024, WAITING_BYTES // (60 * 1024))])
async def test_no_more_submissions_of_a_message_are_taken_than_may_wait(
    holding: tuple[TaskServer, HoldingStore], size: int, most: int
) -> None:
    server, store = holding
    store.tasks = ()
    spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="count"))
    spec.job.arguments.type_url, spec.job.arguments.value = "type.googleapis.com/any", b"x" * size
    # As many as a message takes; of the large ones several messages, so that they are more than may wait too.
    each = min(20_000, LARGEST_MESSAGE // (size + 100))
    sent = max(each, 2 * most // each * each)
    call: Any = server.stub.SubmitTasks(
        (
            message(*(submission(start + n, f"r{start + n}", spec) for n in range(each)))
            for start in range(0, sent, each)
        ),
        metadata=METADATA,
    )
    answered = 0
    while answered < sent:
        await until(lambda: store.held)
        count = len(store.held)
        assert count <= most
        store.release()
        answers = await answers_of(call, count)
        assert not any(answer.reason for answer in answers.values()), answers
        answered += len(answers)
    assert await call.read() is grpc.aio.EOF


async def test_answers_with_many_tasks_fit_into_messages(holding: tuple[TaskServer, HoldingStore]) -> None:
    server, store = holding
    payload = (await server.upload(whole(header_of("u"), b"x"))).payload
    spec = push_spec(*(f"i{number}" for number in range(1000)))
    request = pb.SubmitTaskRequest(request_id="r", spec=spec, payload_id=payload.id)
    await server.submit(request)
    store.tasks = tuple(await server.store.list_tasks(TaskFilter(), before=None, limit=1000))
    call: Any = server.stub.SubmitTasks(metadata=METADATA)
    for number in range(200):
        await call.write(message(pb.Submission(number=number, request=request)))
    await call.done_writing()
    answered = 0
    while answered < 200:
        await until(lambda: store.held)
        count = len(store.held)
        store.release()
        answered += len(await answers_of(call, count))


async def test_a_draining_server_answers_accepted_submissions_and_ends_the_stream(server: TaskServer) -> None:
    call: Any = server.stub.SubmitTasks(metadata=METADATA)
    await call.write(message(*(submission(n, f"r{n}") for n in range(300))))
    await answers_of(call, 300)
    await server.uploads.drain(0.0)
    response = await call.read()
    assert response.go_away.reason == "DRAINING"
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await call.read()
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    again: Any = server.stub.SubmitTasks(metadata=METADATA)
    assert (await again.read()).go_away.reason == "DRAINING"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await again.read()
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_refused_stream_is_explained_by_the_server_at_the_first_try(server: TaskServer) -> None:
    # grpc.aio tells a client that is still sending "Internal error from Core": 20 of 60 runs.
    some = [Submission(spec=push_of("web/etc/x"), content=b"x" * 60_000) for _ in range(200)]
    for _ in range(60):
        async with AsyncClient(server=server.address, token="no-such-token", patience=0.001) as client:
            with pytest.raises(Unauthenticated, match="No token, or a wrong one"):
                _ = [one async for one in client.submit_many(some)]


async def test_an_idle_stream_holds_up_no_drain(server: TaskServer) -> None:
    call: Any = server.stub.SubmitTasks(metadata=METADATA)
    await call.write(message(submission(1, "r")))
    await answers_of(call, 1)
    await asyncio.wait_for(server.stop(drain=0.0), PATIENCE)


@pytest.mark.cluster("P4")
async def test_a_server_that_is_killed_meanwhile_loses_and_doubles_nothing(tmp_path: Path) -> None:
    def jobs() -> Iterable[Submission]:
        return [Submission(spec=job_spec("nobodys"), request_id=f"r{number}") for number in range(3000)]

    with staged(tmp_path) as stage:
        async with (
            AsyncClient(server=stage.server.address, token_file=stage.server.token_file, patience=60) as client,
            asyncio.timeout(100),
        ):
            done: dict[str, tuple[str, ...]] = {}
            async for one in client.submit_many(jobs()):
                assert one.error is None, one
                done[one.submission.request_id] = one.task_ids
                if len(done) in (300, 1500):
                    stage.server.kill()
                    await asyncio.to_thread(stage.server.start)
            assert len({ids[0] for ids in done.values()}) == 3000
            listed = {task.request_id: task.id async for task in client.list(page_size=500)}
            assert listed == {name: ids[0] for name, ids in done.items()}
            await until(lambda: stage.server.running)
