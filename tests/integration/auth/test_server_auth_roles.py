"""Each role may do and see certain things: submitters their own, workers what they hold, operators everybody's."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from longshore.client.servers.ending import CallEnding
from longshore.server.model.access import Role
from longshore.v1 import admin_service_pb2, admin_service_pb2_grpc, task_pb2
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import task_service_pb2_grpc as pb_grpc
from longshore.v1 import worker_service_pb2 as worker_pb
from tests.support.servers.processes import ServerProcess
from tests.support.servers.rawgrpc import header_of, push_spec, refusal_of, whole
from tests.support.servers.tokens import metadata, token_of
from tests.support.workers.fakeworker import FakeWorker, SessionRefused, ref

CONTENT = b"a payload" * 20_000
_numbers = itertools.count(1)


class Caller:
    """Somebody with a token."""

    def __init__(self, server: ServerProcess, token: str) -> None:
        self.token = token
        self._channel = grpc.aio.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.tasks = pb_grpc.TaskServiceStub(self._channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(self._channel)
        self.metadata = metadata(token)

    async def close(self) -> None:
        await self._channel.close()

    async def upload(self, *, target: str, instance: str = "c1") -> task_pb2.Task:
        spec = push_spec(instance)
        for push in spec.file_push.pushes:
            push.destination.target = target
        messages = whole(header_of(f"r{next(_numbers)}", spec=spec), CONTENT)
        call: Any = self.tasks.Upload(messages, metadata=self.metadata)
        ending = CallEnding(call)
        try:
            answer: pb.UploadResponse = await call
        except grpc.aio.AioRpcError as error:
            # The status of the refusal, and not what grpc.aio makes of a write after it.
            raise await ending.told(error) from None
        return answer.tasks[0]

    async def get(self, task_id: str) -> task_pb2.Task:
        return (await self.tasks.GetTask(pb.GetTaskRequest(task_id=task_id), metadata=self.metadata)).task

    async def attempts(self, task_id: str) -> int:
        answer = await self.tasks.ListAttempts(pb.ListAttemptsRequest(task_id=task_id), metadata=self.metadata)
        return len(answer.attempts)

    async def cancel(self, task_id: str) -> task_pb2.Task:
        answer = await self.tasks.CancelTask(pb.CancelTaskRequest(task_id=task_id), metadata=self.metadata)
        return answer.task

    async def retry(self, task_id: str) -> task_pb2.Task:
        request = pb.RetryTaskRequest(task_id=task_id, request_id=f"r{next(_numbers)}")
        return (await self.tasks.RetryTask(request, metadata=self.metadata)).task

    async def seen(self) -> set[str]:
        answer = await self.tasks.ListTasks(pb.ListTasksRequest(), metadata=self.metadata)
        return {task.id for task in answer.tasks}

    async def first_of_watch(self, task_id: str) -> task_pb2.Task:
        watch = self.watch(task_id)
        message: Any = await watch.read()
        watch.cancel()
        return task_pb2.Task.FromString(message.task.SerializeToString())

    def watch(self, task_id: str, **fields: Any) -> Any:
        return self.tasks.WatchTask(pb.WatchTaskRequest(task_id=task_id, **fields), metadata=self.metadata)

    async def stats(self) -> admin_service_pb2.GetStatsResponse:
        return await self.admin.GetStats(admin_service_pb2.GetStatsRequest(), metadata=self.metadata)


async def refused(call: Awaitable[Any]) -> tuple[str, str]:
    """The reason and the message of a refusal."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    found = refusal_of(error.value)
    return found.reason, found.message


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[ServerProcess]:
    # Workers made by hand say nothing by themselves: their leases must outlive a test.
    with ServerProcess(tmp_path_factory.mktemp("roles"), "--lease", "120s") as process:
        yield process


@pytest.fixture
async def caller(server: ServerProcess) -> AsyncIterator[Callable[..., Caller]]:
    made: list[Caller] = []

    def make(name: str, *roles: Role) -> Caller:
        made.append(Caller(server, token_of(server, name, *roles)))
        return made[-1]

    yield make
    for one in made:
        await one.close()


@pytest.fixture
def target(request: pytest.FixtureRequest) -> str:
    """One that no other test's workers serve."""
    return f"t{next(_numbers)}"


async def test_submitters_reach_their_own_tasks_and_operators_all_tasks(
    caller: Callable[..., Caller], target: str
) -> None:
    mine, other, boss = caller("mine", Role.SUBMIT), caller("other", Role.SUBMIT), caller("boss", Role.OPERATE)
    task = await mine.upload(target=target)
    assert task.creator == "mine"
    assert {task.id} <= await mine.seen()
    assert task.id not in await other.seen()
    for ask in (other.get, other.attempts, other.first_of_watch, other.cancel, other.retry):
        assert (await refused(ask(task.id)))[0] == "NOT_FOUND"
    assert (await boss.get(task.id)).creator == "mine"
    assert (await boss.first_of_watch(task.id)).id == task.id
    assert task.id in await boss.seen()
    assert (await boss.cancel(task.id)).state == task_pb2.TASK_STATE_CANCELLED
    assert (await mine.retry(task.id)).creator == "mine"


async def test_a_task_that_an_operator_retries_stays_its_submitters(caller: Callable[..., Caller], target: str) -> None:
    mine, other, boss = caller("mine", Role.SUBMIT), caller("other", Role.SUBMIT), caller("boss", Role.OPERATE)
    task = await mine.upload(target=target)
    await mine.cancel(task.id)
    again = await boss.retry(task.id)
    assert (again.creator, again.retried_by, again.retry_of) == ("mine", "boss", task.id)
    assert again.id in await mine.seen()
    assert again.id not in await other.seen()
    assert (await mine.get(again.id)).retried_by == "boss"
    assert (await mine.first_of_watch(again.id)).id == again.id
    assert (await mine.cancel(again.id)).state == task_pb2.TASK_STATE_CANCELLED
    own = await mine.retry(again.id)
    assert (own.creator, own.retried_by) == ("mine", "")
    assert (await refused(other.retry(own.id)))[0] == "NOT_FOUND"


async def test_two_tokens_of_one_name_are_one_caller(caller: Callable[..., Caller], target: str) -> None:
    one, two = caller("twice", Role.SUBMIT), caller("twice", Role.SUBMIT)
    task = await one.upload(target=target)
    assert (await two.cancel(task.id)).id == task.id


async def test_the_missing_role_is_named(caller: Callable[..., Caller], target: str) -> None:
    submitter, worker, boss = caller("s", Role.SUBMIT), caller("w", Role.WORK), caller("o", Role.OPERATE)
    for call, role in (
        (submitter.stats(), "operate"),
        (worker.stats(), "operate"),
        (worker.seen(), "submit or operate"),
        (worker.cancel("X"), "submit or operate"),
        (worker.retry("X"), "submit or operate"),
        (worker.upload(target=target), "submit"),
        (boss.upload(target=target), "submit"),
    ):
        reason, message = await refused(call)
        assert reason == "FORBIDDEN"
        assert f"needs the role {role}," in message
    assert await boss.stats()


@pytest.mark.parametrize("roles", [(Role.SUBMIT,), (Role.OPERATE,)], ids=str)
async def test_sessions_are_for_workers(server: ServerProcess, caller: Callable[..., Caller], roles: Any) -> None:
    async with FakeWorker(server.address, token=caller("nobody", *roles).token) as worker:
        with pytest.raises(SessionRefused, match="needs the role work"):
            await worker.connect()
        with pytest.raises(SessionRefused, match="needs the role work"):
            await worker.download("X", 1)


class Pair:
    """Two fleets of different principals; the first holds an attempt of somebody's task."""

    def __init__(self, server: ServerProcess, make: Callable[..., Caller], target: str) -> None:
        self.one, self.two = make("fleet-one", Role.WORK), make("fleet-two", Role.WORK)
        self.owner = make("owner", Role.SUBMIT)
        self.first = FakeWorker(server.address, token=self.one.token, targets=[target])
        self.second = FakeWorker(server.address, token=self.two.token, targets=["elsewhere"])
        self.target = target

    async def __aenter__(self) -> Pair:
        await self.first.__aenter__()
        await self.second.__aenter__()
        self.task = await self.owner.upload(target=self.target)
        self.stream = await self.first.connect(credits=1)
        self.other = await self.second.connect(credits=1)
        self.assignment = await self.stream.next_assignment()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.first.__aexit__()
        await self.second.__aexit__()

    async def ends_well(self) -> None:
        """The first fleet still holds its attempt, and delivers."""
        assert (await self.stream.ask_grant(self.assignment, temp="/srv/.temp")).granted
        assert (await self.stream.report(self.assignment)).accepted
        task = await self.owner.get(self.task.id)
        assert (task.state, len(task.attempts)) == (task_pb2.TASK_STATE_SUCCEEDED, 1)


@pytest.fixture
async def pair(server: ServerProcess, caller: Callable[..., Caller], target: str) -> AsyncIterator[Pair]:
    async with Pair(server, caller, target) as made:
        yield made


async def test_a_worker_downloads_only_for_its_own_attempts(pair: Pair) -> None:
    task, attempt = pair.assignment.task.id, pair.assignment.attempt
    for session_id in ("", pair.first.session_id):
        with pytest.raises(SessionRefused) as error:
            await pair.second.download(task, attempt, session_id=session_id)
        assert error.value.reason == "NOT_YOUR_ATTEMPT"
    assert await pair.first.download(task, attempt) == CONTENT


async def test_a_worker_cannot_take_or_end_anothers_session(pair: Pair, server: ServerProcess) -> None:
    thief = FakeWorker(server.address, token=pair.two.token, session_id=pair.first.session_id, targets=[pair.target])
    async with thief:
        with pytest.raises(SessionRefused) as error:
            await thief.connect(held=[(pair.assignment.task.id, pair.assignment.attempt)])
        assert error.value.reason == "FORBIDDEN"
    async with FakeWorker(server.address, token=pair.two.token, targets=["elsewhere"]) as undertaker:
        await undertaker.connect(dead_sessions=[pair.first.session_id])
    await pair.ends_well()


async def test_reports_on_another_workers_attempt_are_ignored(pair: Pair) -> None:
    theirs = worker_pb.Assignment(task=pair.assignment.task, attempt=pair.assignment.attempt)
    grant = await pair.other.ask_grant(theirs, temp="/srv/.temp")
    assert not grant.granted
    assert not (await pair.other.report(theirs, worker_pb.OUTCOME_PERMANENT, reason="NO_SPACE")).accepted
    done = worker_pb.AttemptProgress(attempt=ref(theirs.task.id, theirs.attempt), done=1, total=2)
    await pair.other.say(progress=[done])
    assert (await pair.owner.get(pair.task.id)).state == task_pb2.TASK_STATE_RUNNING
    await pair.ends_well()


async def test_a_worker_reads_a_payload_only_while_it_holds_the_attempt(pair: Pair) -> None:
    for ask in (pair.two.get, pair.two.attempts, pair.two.first_of_watch):
        assert (await refused(ask(pair.task.id)))[0] == "NOT_FOUND"
    assert (await pair.one.get(pair.task.id)).id == pair.task.id
    assert await pair.one.attempts(pair.task.id) == 1
    # Its watch tells the task's past as well, and stops when the attempt is handed back.
    watch = pair.one.watch(pair.task.id, after_revision=0)
    assert [(await watch.read()).task.state for _ in range(2)] == [
        task_pb2.TASK_STATE_QUEUED,
        task_pb2.TASK_STATE_RUNNING,
    ]
    await pair.stream.offer(0)
    report = await pair.stream.report(pair.assignment, worker_pb.OUTCOME_TRANSIENT, reason="IO_ERROR", retry_after=0.9)
    assert report.accepted
    assert (await refused(watch.read()))[0] == "NOT_YOUR_ATTEMPT"
    for ask in (pair.one.get, pair.one.attempts, pair.one.first_of_watch):
        assert (await refused(ask(pair.task.id)))[0] == "NOT_FOUND"


async def test_a_worker_learns_the_end_of_its_attempts(pair: Pair) -> None:
    watch = pair.one.watch(pair.task.id)
    assert (await watch.read()).task.state == task_pb2.TASK_STATE_RUNNING
    await pair.owner.cancel(pair.task.id)
    assert (await watch.read()).task.cancel_requested
    assert (await pair.stream.report(pair.assignment, worker_pb.OUTCOME_STOPPED)).accepted
    assert (await watch.read()).task.state == task_pb2.TASK_STATE_CANCELLED
    assert await watch.read() is grpc.aio.EOF


@pytest.mark.parametrize("role", list(Role))
async def test_reflection_needs_any_token(server: ServerProcess, role: Role) -> None:
    token = token_of(server, "curious", role)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async with grpc.aio.insecure_channel(server.address) as channel:
        opened: Any = channel  # its stubs are typed for blocking channels
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(opened)
        answers = [answer async for answer in stub.ServerReflectionInfo(iter([request]), metadata=metadata(token))]
    assert "longshore.v1.TaskService" in {one.name for one in answers[0].list_services_response.service}


async def test_a_caller_with_both_roles_sees_its_own_and_its_held_tasks(
    server: ServerProcess, caller: Callable[..., Caller], target: str
) -> None:
    both, owner = caller("both", Role.SUBMIT, Role.WORK), caller("owner", Role.SUBMIT)
    own, held = await both.upload(target="elsewhere"), await owner.upload(target=target)
    async with FakeWorker(server.address, token=both.token, targets=[target]) as worker:
        stream = await worker.connect(credits=1)
        await stream.next_assignment()
        assert (await both.get(own.id)).id == own.id
        assert (await both.get(held.id)).id == held.id
        assert (await both.first_of_watch(held.id)).id == held.id
        assert (await refused(both.cancel(held.id)))[0] == "NOT_FOUND"


async def test_the_log_names_the_principal_of_each_action(
    server: ServerProcess, caller: Callable[..., Caller], target: str
) -> None:
    someone, boss = caller("someone", Role.SUBMIT), caller("the-boss", Role.OPERATE)
    task = await someone.upload(target=target)
    await boss.cancel(task.id)
    retried = await boss.retry(task.id)
    pause = admin_service_pb2.PauseQueueRequest(queue="some-queue", create=True)
    await boss.admin.PauseQueue(pause, metadata=boss.metadata)
    events = [event for event in server.events() if "principal" in event]
    said = {(event["event"], event["principal"]): event for event in events}
    assert task.id in said["upload_complete", "someone"]["tasks"]
    assert said["cancel", "the-boss"]["task_id"] == task.id
    assert said["retry", "the-boss"]["task_id"] == retried.id
    assert said["operator", "the-boss"]["action"] == "pause_queue"
    assert not [token for token in (someone.token, boss.token) if token.split("_", 2)[2] in server.log()]


def test_the_database_has_no_secret(server: ServerProcess) -> None:
    secret = token_of(server, "kept", Role.SUBMIT).split("_", 2)[2]
    known = str(server.execute("SELECT * FROM tokens"))
    assert "kept" in known
    assert secret not in known
    for file in server.data.glob("longshore.db*"):  # in what a row has left behind neither
        assert secret.encode() not in file.read_bytes()
