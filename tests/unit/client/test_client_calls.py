"""Calls that are answered at once, errors in full, the blocking twin, and what the package exports."""

from __future__ import annotations

import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import assert_type

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

import longshore.client as package
from longshore.client import (
    AsyncClient,
    Client,
    ConfigurationError,
    Internal,
    InvalidArgument,
    LongshoreError,
    NotFound,
    PlanStep,
    Submission,
    Submitted,
    TaskFilter,
    Unauthenticated,
    Unavailable,
    UploadProgress,
    job_spec,
    push_spec,
)
from longshore.client.runtime.loopthread import BlockingIterator, LoopThread
from longshore.v1 import admin_service_pb2, task_pb2
from longshore.v1 import task_service_pb2 as pb
from tests.support.servers.fakeservice import Break, FakeService, FakeTaskServer, Refuse


@pytest.fixture
async def server() -> AsyncIterator[FakeTaskServer]:
    async with FakeTaskServer() as server:
        for number in range(250):
            server.service.history[f"t{number}"] = [task_pb2.Task(id=f"t{number}", revision=1)]
        yield server


@pytest.fixture
async def client(server: FakeTaskServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server=server.address, token="secret", patience=5) as client:
        yield client


async def test_a_token_that_is_made_later_is_shown(
    server: FakeTaskServer, service: FakeService, tmp_path: Path
) -> None:
    """As a server makes it at its first start, which a client may have been waiting for."""
    async with AsyncClient(server=server.address, data_dir=tmp_path, patience=0) as client:
        await client.get("t0")
        (tmp_path / "token").write_text("made-since")
        await client.get("t0")
    assert [each.get("authorization") for each in service.metadata] == [None, "Bearer made-since"]


async def test_list_draws_pages(client: AsyncClient, service: FakeService) -> None:
    tasks = [task.id async for task in client.list(filter=TaskFilter(queue="q"))]
    assert tasks == [f"t{number}" for number in reversed(range(250))]
    sizes = [request.page_size for request in service.requests if isinstance(request, pb.ListTasksRequest)]
    assert sizes == [100, 100, 100]
    assert all(r.filter.queue == "q" for r in service.requests if isinstance(r, pb.ListTasksRequest))


async def test_list_asks_for_no_more_than_wanted(client: AsyncClient, service: FakeService) -> None:
    assert [task.id async for task in client.list(limit=3)] == ["t249", "t248", "t247"]
    [request] = service.requests
    assert isinstance(request, pb.ListTasksRequest)
    assert request.page_size == 3


async def test_batches_are_asked_for_and_cancelled_by_their_request_id(
    client: AsyncClient, service: FakeService
) -> None:
    assert (await client.get_batch("r1", creator="boss")).creator == "boss"
    assert (await client.cancel_batch("r1", reason="why")).request_id == "r1"
    assert service.requests == [
        pb.GetBatchRequest(request_id="r1", creator="boss"),
        pb.CancelBatchRequest(request_id="r1", reason="why"),
    ]


async def test_a_plan_sends_its_steps_and_a_dry_run_makes_none(client: AsyncClient, service: FakeService) -> None:
    steps = [
        PlanStep(spec=push_spec("web/etc/a"), content=b"abc", name="first"),
        PlanStep(spec=job_spec("reload"), after=[0], payload_id="p1"),
    ]
    assert [task.id for task in await client.submit_plan(steps, request_id="r1")] == ["step-0", "step-1"]
    assert await client.submit_plan(steps, request_id="r1", dry_run=True) == ()
    sent, tried = service.requests
    assert isinstance(sent, pb.SubmitPlanRequest)
    assert isinstance(tried, pb.SubmitPlanRequest)
    assert tried.dry_run
    first, second = sent.steps
    assert (first.name, first.content, first.content_crc32c) == ("first", b"abc", 0x364B3FB7)
    assert (list(second.after_steps), second.payload_id, second.spec.job.kind) == ([0], "p1", "reload")


@pytest.mark.parametrize("after", [[0], [1], [-1], ["a"]])
async def test_a_step_comes_after_earlier_ones_only(client: AsyncClient, after: list[int]) -> None:
    with pytest.raises(ConfigurationError, match=r"steps\[0\]"):
        await client.submit_plan([PlanStep(spec=job_spec("reload"), after=after)])


async def test_cancel_retry_and_submit_send_their_arguments(client: AsyncClient, service: FakeService) -> None:
    await client.cancel("t1", reason="no more", expected_revision=0)
    await client.retry("t1", force=True)
    arguments = Struct()
    arguments["a"] = 1
    await client.submit(spec=job_spec("thumbnail", arguments, queue="q"), payload_id="p")
    cancel, retry, submit = service.requests
    assert isinstance(cancel, pb.CancelTaskRequest)
    assert isinstance(retry, pb.RetryTaskRequest)
    assert isinstance(submit, pb.SubmitTaskRequest)
    assert (cancel.reason, cancel.HasField("expected_revision"), cancel.expected_revision) == ("no more", True, 0)
    assert retry.force
    assert retry.request_id
    assert not retry.HasField("expected_revision")
    unpacked = Struct()
    assert submit.spec.job.arguments.Unpack(unpacked)
    assert unpacked == arguments
    assert submit.payload_id == "p"


async def test_a_call_is_tried_again_with_the_same_request_id(client: AsyncClient, service: FakeService) -> None:
    service.calls += [Refuse(code=grpc.StatusCode.UNAVAILABLE, reason="STORE_UNAVAILABLE"), None]
    await client.submit(spec=job_spec("thumbnail"))
    first, second = service.requests
    assert isinstance(first, pb.SubmitTaskRequest)
    assert first == second
    assert first.request_id


async def test_an_error_tells_everything(client: AsyncClient, service: FakeService) -> None:
    service.calls += [
        Refuse(code=grpc.StatusCode.INVALID_ARGUMENT, reason="INVALID_FIELD", message="no", field="task_id")
    ]
    with pytest.raises(InvalidArgument) as caught:
        await client.get("t1")
    error = caught.value
    assert (error.reason, error.message, dict(error.metadata)) == ("INVALID_FIELD", "no", {"a": "b"})
    assert [(each.field, each.description) for each in error.field_violations] == [("task_id", "is wrong")]
    assert error.from_server


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, Unauthenticated),
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.UNIMPLEMENTED, Internal),
    ],
)
async def test_a_status_without_details(
    client: AsyncClient, service: FakeService, code: grpc.StatusCode, expected: type[LongshoreError]
) -> None:
    service.calls += [Refuse(code=code)]
    with pytest.raises(expected) as caught:
        await client.get("t1")
    assert caught.value.reason == code.name
    assert not caught.value.from_server


def methods(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(kind, callable)
        if not name.startswith("_") or name == "__init__"
    }


BAD: list[tuple[str, Callable[[Client], object]]] = [
    ("task_id", lambda client: client.get("\udce9")),
    ("task_id", lambda client: client.get("\ud800")),
    ("task_id", lambda client: client.get(None)),  # type: ignore[arg-type]
    ("task_id", lambda client: client.attempts("\udce9")),
    ("task_id", lambda client: next(client.watch("\udce9"))),
    ("task_id", lambda client: client.wait("\udce9")),
    ("after_revision", lambda client: client.watch("t", after_revision=-1)),
    ("task_id", lambda client: client.cancel("\udce9")),
    ("reason", lambda client: client.cancel("t", reason="\udce9")),
    ("expected_revision", lambda client: client.cancel("t", expected_revision=-1)),
    ("task_id", lambda client: client.retry("\udce9")),
    ("request_id", lambda client: client.retry("t", request_id="\udce9")),
    ("request_id", lambda client: client.get_upload("\udce9")),
    ("request_id", lambda client: client.upload(b"x", spec=push_spec("web/x"), request_id="\udce9")),
    ("sha256", lambda client: client.upload(b"x", spec=push_spec("web/x"), sha256="abc")),  # type: ignore[arg-type]
    ("request_id", lambda client: client.submit(spec=job_spec("k"), request_id="\udce9")),
    ("payload_id", lambda client: next(client.submit_many([Submission(spec=job_spec("k"), payload_id="\udce9")]))),
    ("creator", lambda client: next(client.list(creator="\udce9"))),
    ("session_id", lambda client: client.drain_worker("\udce9")),
    ("queue", lambda client: client.pause_queue("\udce9")),
    ("queue", lambda client: client.resume_queue("\udce9")),
    ("task_id", lambda client: client.settle("\udce9", settlement=1)),  # type: ignore[arg-type]
    ("settlement", lambda client: client.settle("t", settlement="x")),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("name", "call"), BAD)
def test_a_value_that_no_message_can_hold_is_refused_by_argument(
    address: str, name: str, call: Callable[[Client], object]
) -> None:
    with Client(server=address, token="secret") as client, pytest.raises(ConfigurationError, match=f"^{name} is "):
        call(client)


def test_both_clients_have_one_surface() -> None:
    asynchronous, blocking = methods(AsyncClient), methods(Client)
    assert asynchronous.keys() == blocking.keys()
    for name, signature in asynchronous.items():
        assert list(signature.parameters.values()) == list(blocking[name].parameters.values()), name
        # A coroutine becomes its result, and a stream an iterator of the same items.
        streams = not inspect.iscoroutinefunction(getattr(AsyncClient, name)) and name != "__init__"
        assert streams == (name in {"list", "submit_many", "watch"})
        expected = BlockingIterator if streams else signature.return_annotation
        assert blocking[name].return_annotation == expected, name
        assert inspect.getdoc(getattr(Client, name)), name


def test_types_of_the_blocking_client_are_those_of_the_other() -> None:
    """mypy checks the types, and the test that the calls are as typed."""
    with Client(server="127.0.0.1:1", token="secret", patience=0) as client:
        with pytest.raises(Unavailable):
            assert_type(client.get("t"), task_pb2.Task)
        with pytest.raises(Unavailable):
            assert_type(client.push(b"x", "web/x", sha256="compute", create_parents=True), Sequence[task_pb2.Task])
        with pytest.raises(Unavailable):
            assert_type(client.workers(include_ended=True), Sequence[admin_service_pb2.Worker])
        with pytest.raises(ConfigurationError):
            client.get(1)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="frob"):
            client.push(b"x", "web/x", frob=1)  # type: ignore[call-arg]
        iterators = (
            assert_type(client.list(kind="file_push"), BlockingIterator[task_pb2.Task]),
            assert_type(client.watch("t"), BlockingIterator[task_pb2.Task]),
            assert_type(client.submit_many([]), BlockingIterator[Submitted]),
        )
        for each in iterators:
            assert isinstance(each, BlockingIterator)
            each.close()


def test_options_go_by_name_only() -> None:
    for name, signature in methods(AsyncClient).items():
        positional = [
            each.name for each in signature.parameters.values() if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        ]
        assert positional in (
            [],
            ["self"],
            *(
                ["self", x]
                for x in ("content", "task_id", "request_id", "session_id", "queue", "submissions", "filter", "steps")
            ),
        ), name


def test_the_exported_names() -> None:
    public = {name for name, value in vars(package).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public == set(package.__all__)
    errors = {
        name
        for name, value in vars(package.errors).items()
        if inspect.isclass(value) and issubclass(value, LongshoreError)
    }
    assert errors <= set(package.__all__)


@pytest.fixture
def address() -> Iterator[str]:
    """The service on a thread of its own, for clients that block."""
    thread = LoopThread(name="service")
    server = FakeTaskServer()
    thread.run(server.__aenter__())
    server.service.history["t"] = [
        task_pb2.Task(id="t", revision=n, done=n == 3, state=task_pb2.TASK_STATE_SUCCEEDED) for n in (1, 2, 3)
    ]
    yield server.address
    thread.run(server.__aexit__())
    thread.close()


def test_the_blocking_client(address: str) -> None:
    before = threading.active_count()
    seen: list[UploadProgress] = []
    with Client(server=address, token="secret") as client:
        [task] = client.upload(b"content", spec=push_spec("web/etc/motd"), progress=seen.append)
        assert task.file_push.destination.instance == "web"
        assert seen[-1].sent == 7
        assert client.get("t").revision == 3
        assert [each.revision for each in client.watch("t")] == [1, 2, 3]
        assert client.wait("t").revision == 3
        assert {each.id for each in client.list()} == {"t", task.id}
        assert [each.number for each in client.attempts("t")] == [1, 2]
        with pytest.raises(NotFound):
            client.get("none")
        watch = client.watch("t")
        assert next(watch).revision == 1
        watch.close()
    assert threading.active_count() <= before


def test_a_closed_client_says_so(address: str) -> None:
    client = Client(server=address)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.get("t")


async def test_a_watch_does_not_outlive_its_client(service: FakeService, server: FakeTaskServer) -> None:
    service.watches += [Break(after=1, how="go_away")]
    client = AsyncClient(server=server.address)
    watch = client.watch("t1")
    await anext(watch)
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await anext(watch)


def test_closing_ends_waiting_calls(address: str) -> None:
    """A watch of a task that never changes, given up by closing from another thread."""
    client = Client(server=address)
    client.upload(b"x", spec=push_spec("web/etc/motd"), request_id="r")
    watch = client.watch("r-0")
    assert next(watch).revision == 1
    ended = threading.Event()

    def wait() -> None:
        try:
            for _ in watch:
                pass
        except (LongshoreError, RuntimeError, CancelledError):
            ended.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    client.close()
    assert ended.wait(10)
    waiting.join()


def test_a_callback_may_not_use_its_client(address: str) -> None:
    caught: list[Exception] = []

    with Client(server=address, patience=0) as client:

        def use(_progress: UploadProgress) -> None:
            try:
                client.get("t")
            except RuntimeError as error:
                caught.append(error)

        client.upload(b"content", spec=push_spec("web/etc/motd"), progress=use)
    assert caught


def test_an_interrupt_in_a_callback_reaches_the_caller(address: str) -> None:
    def interrupted(_: UploadProgress) -> None:
        raise KeyboardInterrupt

    with Client(server=address, token="token") as client:
        with pytest.raises(KeyboardInterrupt):
            client.upload(b"content", spec=push_spec("web/etc/motd"), progress=interrupted)
        assert client.get("t").id, "the client goes on"


def test_an_absent_server_is_unavailable() -> None:
    with Client(server="unix:/nowhere/at/all.sock", patience=0) as client, pytest.raises(Unavailable):
        client.get("t")


def test_an_invalid_address_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigurationError):
        Client(server="192.0.2.1")
