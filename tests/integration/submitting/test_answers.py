"""P3, P4: an answer is never too large for its caller, whatever was asked for, and nothing of it is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from longshore.client import AsyncClient, Client, job_spec
from longshore.server.edge.messages.answer_room import MOST_BYTES
from longshore.server.engine.uploads.uploads import UploadLimits
from longshore.server.store.commands import Bounds
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import worker_service_pb2 as ws
from tests.support.commandline import CommandLine
from tests.support.servers.processes import ServerProcess
from tests.support.servers.rawgrpc import METADATA, TOKEN, TaskServer, header_of, push_spec, whole
from tests.support.workers.fakeworker import FakeWorker

WIDE = "\U0001f6a2"
LABELS = {f"{number:02}{'k' * 61}": "v" * 255 for number in range(32)}
"""10 KiB: a thousand tasks have 10 MiB of them, and their request 29 KiB."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[TaskServer]:
    limits = UploadLimits(inline_bytes=64 << 10, patience=0.2, detach=10.0, bounds=Bounds(queue_tasks=10_000))
    async with TaskServer(tmp_path, limits=limits) as server:
        yield server


def client_of(server: TaskServer) -> AsyncClient:
    return AsyncClient(server=server.address, token=TOKEN, patience=0.0)


def many(count: int) -> task_pb2.TaskSpec:
    return push_spec(*(f"i{number:04}" for number in range(count)), labels=LABELS)


def instances(tasks: object) -> list[str]:
    return [task.file_push.destination.instance for task in tasks]  # type: ignore[attr-defined]


async def test_a_submission_of_a_thousand_destinations_is_answered_and_again_the_same(server: TaskServer) -> None:
    request = pb.SubmitTaskRequest(request_id="r", spec=many(1000), content=b"x")
    first = await server.submit(request)
    assert len(first.task_ids) == 1000
    assert 0 < len(first.tasks) < 1000
    assert first.ByteSize() <= MOST_BYTES + 64 * 1024
    assert [task.id for task in first.tasks] == list(first.task_ids)[: len(first.tasks)]
    again = await server.submit(request)
    assert list(again.task_ids) == list(first.task_ids)
    async with client_of(server) as client:
        tasks = await client.submit(spec=many(1000), content=b"x", request_id="r")
    assert [task.id for task in tasks] == list(first.task_ids)
    assert instances(tasks) == [f"i{number:04}" for number in range(1000)]


async def test_an_upload_to_five_hundred_is_answered_and_so_is_a_question_about_it(server: TaskServer) -> None:
    async with client_of(server) as client:
        tasks = await client.upload(b"x" * 100_000, spec=many(500), request_id="r")
        assert instances(tasks) == [f"i{number:04}" for number in range(500)]
        upload = await client.get_upload("r")
        assert [task.id for task in upload.tasks] == [task.id for task in tasks]
    for raw in (await server.get("r"), await server.create(header_of("r", spec=many(500), size=100_000))):
        assert raw.complete
        assert 0 < len(raw.tasks) < len(raw.task_ids) == 500
    answer: pb.UploadResponse = await server.upload(whole(header_of("r", spec=many(500), size=100_000), b"x" * 100_000))
    assert list(answer.task_ids) == [task.id for task in tasks]


async def test_pages_of_large_jobs_are_shorter_and_have_them_all(server: TaskServer) -> None:
    arguments = AnyMessage(type_url="t", value=bytes(65_000))
    made: list[str] = []
    for number in range(150):
        spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="thumb", arguments=arguments))
        made += (await server.submit(pb.SubmitTaskRequest(request_id=f"r{number}", spec=spec))).task_ids
    page = await server.stub.ListTasks(pb.ListTasksRequest(page_size=1000), metadata=METADATA)
    assert 10 < len(page.tasks) < 150
    assert page.ByteSize() <= MOST_BYTES + 1024
    async with client_of(server) as client:
        listed = [task.id async for task in client.list(page_size=1000)]
        some = [task.id async for task in client.list(page_size=1000, limit=70)]
    assert listed == made[::-1]
    assert some == listed[:70]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServerProcess]:
    # A worker of these tests sends no heartbeat, and forty of them are connected one after the other.
    with ServerProcess(tmp_path, "--lease", "60s") as process:
        yield process


async def test_attempts_with_long_errors_are_listed_in_parts(process: ServerProcess) -> None:
    error = task_pb2.TaskError(reason="BROKEN", message=WIDE * 4000)
    token = process.token_file.read_text().strip()
    async with (
        AsyncClient(server=process.address, token=token) as client,
        FakeWorker(process.address, token=token) as worker,
    ):
        stream = await worker.connect(credits=1)
        (task,) = await client.submit(spec=job_spec("job"))
        for _ in range(150):
            assignment = await stream.next_assignment()
            await stream.report(assignment, ws.OUTCOME_HANDED_BACK, error=error)
        attempts = await client.attempts(task.id)
        assert [attempt.number for attempt in attempts[:150]] == list(range(1, 151))
        assert sum(attempt.ByteSize() for attempt in attempts) > MOST_BYTES
        shown = await client.get(task.id)
        assert len(shown.attempts) == 5


def test_the_command_line_lists_all_of_seventy_large_jobs(process: ServerProcess, tmp_path: Path) -> None:
    arguments = AnyMessage(type_url="type.googleapis.com/none", value=bytes(65_000))
    spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="thumb", arguments=arguments))
    with Client(server=process.address, token_file=process.token_file) as client:
        made = [client.submit(spec=spec)[0].id for _ in range(70)]
    cli = CommandLine(address=process.address, data_dir=process.data, folder=tmp_path)
    assert cli.run("list", "--limit", "0", "--output", "id").lines == made[::-1]


async def test_too_many_figures_and_workers_are_shown_in_part(process: ServerProcess) -> None:
    token = process.token_file.read_text().strip()
    async with AsyncClient(server=process.address, token=token) as client, AsyncExitStack() as stack:
        kinds = {f"{number:04}{'k' * 59}": False for number in range(1000)}
        names = []
        for number in range(40):
            targets = [f"{number:02}-{each:04}{'t' * 56}" for each in range(1000)]
            worker = FakeWorker(process.address, token=token, name=f"w{number:02}", targets=targets, kinds=kinds)
            await (await stack.enter_async_context(worker)).connect()
            names.append(worker.name)
        first = await client.stats()
        assert first.ByteSize() <= MOST_BYTES + 1024
        assert 0 < len(first.targets) < 40_000
        assert len(first.targets) + first.omitted >= 40_000
        workers = await client.workers()
        assert [worker.name for worker in workers] == names
        assert sum(worker.ByteSize() for worker in workers) > MOST_BYTES
