"""Many submissions over one stream, against a scripted service: each is answered once, whatever the connection does."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from longshore.client import (
    AlreadyExists,
    AsyncClient,
    Client,
    ConfigurationError,
    Submission,
    Submitted,
    Unavailable,
    job_spec,
    push_spec,
)
from longshore.client.servers.servers import Tour
from longshore.client.transfer.submitting import Submitting
from tests.support.servers.fakeservice import FakeService, FakeTaskServer, Pipe, Refuse

MANY = 2500
SPEC = job_spec("count")


def jobs(count: int) -> Iterator[Submission]:
    return (Submission(spec=SPEC, request_id=f"r{number}") for number in range(count))


@pytest.fixture
async def client(server: FakeTaskServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server=server.address, patience=10) as client, asyncio.timeout(60):
        yield client


async def test_each_is_answered_once(client: AsyncClient, service: FakeService) -> None:
    answers = [one async for one in client.submit_many(jobs(MANY))]
    assert [one.submission.request_id for one in answers] == [f"r{number}" for number in range(MANY)]
    assert all(one.task_ids == (f"task-{one.submission.request_id}",) for one in answers)
    assert len(service.submitted) == MANY


async def test_nothing_to_submit_is_no_error(client: AsyncClient) -> None:
    assert [one async for one in client.submit_many([])] == []


async def test_a_source_that_waits_is_answered_meanwhile(client: AsyncClient) -> None:
    answered = asyncio.Event()

    async def source() -> AsyncIterator[Submission]:
        yield Submission(spec=SPEC, request_id="first")
        await answered.wait()  # the answer to the first is not held back for a second
        yield Submission(spec=SPEC)

    seen: list[Submitted] = []
    async for one in client.submit_many(source()):
        seen.append(one)
        answered.set()
    assert seen[0].submission.request_id == "first"
    assert seen[1].submission.request_id  # made up


async def test_no_more_wait_than_asked_for(client: AsyncClient) -> None:
    taken = 0

    def source() -> Iterator[Submission]:
        nonlocal taken
        for one in jobs(200):
            taken += 1
            yield one

    most = done = 0
    async for _ in client.submit_many(source(), at_once=10):
        done += 1
        most = max(most, taken - done)
    # The answers of one message are handed out one by one, and room for all of them arose at once.
    assert done == 200
    assert most <= 20


@pytest.mark.parametrize("after", [1, 64, 700])
async def test_after_a_cut_the_rest_is_submitted_again(client: AsyncClient, service: FakeService, after: int) -> None:
    service.streams.extend([Pipe(after=after), Pipe(after=after)])
    answers = [one async for one in client.submit_many(jobs(MANY))]
    assert sorted(one.submission.request_id for one in answers) == sorted(f"r{number}" for number in range(MANY))
    assert all(one.error is None for one in answers)


async def test_a_refused_submission_stops_no_other(client: AsyncClient, service: FakeService) -> None:
    reused = Refuse(code=grpc.StatusCode.ALREADY_EXISTS, reason="REQUEST_ID_REUSED")
    service.streams.append(Pipe(refuse={"r3": reused}))
    answers = {one.submission.request_id: one async for one in client.submit_many(jobs(10))}
    assert isinstance(answers["r3"].error, AlreadyExists)
    assert answers["r3"].error.reason == "REQUEST_ID_REUSED"
    assert answers["r3"].task_ids == ()
    assert all(one.task_ids for name, one in answers.items() if name != "r3")


async def test_a_submission_that_found_no_room_is_repeated(client: AsyncClient, service: FakeService) -> None:
    full = Refuse(code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="QUEUE_FULL", retry_after=0.01)
    service.streams.extend([Pipe(refuse={"r3": full}), Pipe(refuse={"r3": full})])
    answers = {one.submission.request_id: one async for one in client.submit_many(jobs(10))}
    assert len(answers) == 10
    assert all(one.task_ids for one in answers.values())


async def test_patience_has_an_end(server: FakeTaskServer, service: FakeService) -> None:
    down = Refuse(code=grpc.StatusCode.UNAVAILABLE, reason="STORE_UNAVAILABLE", retry_after=0.01)
    service.streams.extend([Pipe(refuse={"r0": down})] * 1000)
    async with AsyncClient(server=server.address, patience=0.5) as client, asyncio.timeout(30):
        with pytest.raises(Unavailable):
            [one async for one in client.submit_many(jobs(1))]


class Passing:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def submitting(
    client: AsyncClient, submissions: Iterator[Submission] | AsyncIterator[Submission], clock: Passing
) -> AsyncIterator[Submitted]:
    """As the client does it, with ten seconds of patience."""
    tour = Tour(client._servers)
    return Submitting(tour=tour, submissions=submissions, patience=10.0, at_once=1000, on_wait=None, clock=clock).run()


async def test_patience_is_not_for_the_time_that_the_caller_takes(client: AsyncClient, service: FakeService) -> None:
    service.streams.append(Pipe(after=2))
    clock = Passing()
    seen = []
    async for one in submitting(client, jobs(3), clock):
        seen.append(one.submission.request_id)
        clock.now += 100.0
    assert seen == ["r0", "r1", "r2"]


async def test_patience_begins_when_something_is_due(client: AsyncClient, server: FakeTaskServer) -> None:
    """However long it was quiet, and whatever became of the connection meanwhile."""
    answered = asyncio.Event()
    clock = Passing()

    async def source() -> AsyncIterator[Submission]:
        yield Submission(spec=SPEC, request_id="first")
        await answered.wait()
        clock.now += 100.0
        await server.__aexit__()
        await server.__aenter__()
        clock.now += 100.0
        yield Submission(spec=SPEC, request_id="second")

    seen = []
    async for one in submitting(client, source(), clock):
        seen.append(one.submission.request_id)
        answered.set()
    assert seen == ["first", "second"]


async def test_a_server_that_goes_after_the_last_answer_costs_nothing(
    client: AsyncClient, service: FakeService
) -> None:
    service.streams.extend([Pipe(after=3), *[Pipe(after=0)] * 50])
    assert len([one async for one in client.submit_many(jobs(3))]) == 3
    assert len(service.submitted) == 3
    assert len(service.streams) == 50


async def test_a_spec_may_be_changed_for_the_next_submission(client: AsyncClient, service: FakeService) -> None:
    def source() -> Iterator[Submission]:
        spec = job_spec("count")
        for number in range(100):
            spec.labels["number"] = str(number)
            yield Submission(spec=spec)

    assert len([one async for one in client.submit_many(source())]) == 100
    assert service.labels == [{"number": str(number)} for number in range(100)]


async def test_messages_are_no_larger_than_servers_take(client: AsyncClient, service: FakeService) -> None:
    large = push_spec(*(f"i{number}/srv/{'d' * 200}/{'e' * 200}/f" for number in range(500)))
    most = (1 << 20) // large.ByteSize()
    answers = [one async for one in client.submit_many(Submission(spec=large, payload_id="p") for _ in range(64))]
    assert len(answers) == 64
    assert max(service.pieces) <= most


async def test_an_unsendable_submission_raises_at_once(client: AsyncClient) -> None:
    with pytest.raises(ConfigurationError, match=r"request_id is .* not UTF-8"):
        [one async for one in client.submit_many([Submission(spec=SPEC, request_id="\ud800")])]
    with pytest.raises(TypeError):
        [one async for one in client.submit_many([Submission(spec="count")])]  # type: ignore[arg-type]


async def test_an_error_of_the_source_is_raised(client: AsyncClient) -> None:
    def source() -> Iterator[Submission]:
        yield from jobs(5)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        [one async for one in client.submit_many(source())]


async def test_leaving_early_ends_the_stream(client: AsyncClient) -> None:
    answers = client.submit_many(jobs(MANY))
    await anext(answers)
    await answers.aclose()
    assert len(await client.submit(spec=SPEC)) == 1


async def test_an_abandoned_iterator_ends_its_stream(client: AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    answers = client.submit_many(jobs(MANY), at_once=10)
    await anext(answers)
    cycle: list[object] = [answers]
    cycle.append(cycle)
    del answers, cycle
    gc.collect()

    started = [each for each in asyncio.all_tasks() if each.get_name().startswith("submit_many")]
    assert started
    await asyncio.wait(started)
    assert not caplog.records


async def test_the_blocking_client_does_the_same(server: FakeTaskServer) -> None:
    def run() -> list[Submitted]:
        with Client(server=server.address, patience=10) as client:
            return list(client.submit_many(jobs(100)))

    assert len(await asyncio.to_thread(run)) == 100


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_a_base_exception_is_raised_by_the_blocking_client_too(
    server: FakeTaskServer, error: BaseException
) -> None:
    def source() -> Iterator[Submission]:
        yield from jobs(5)
        raise error

    def run() -> tuple[BaseException | None, int]:
        with Client(server=server.address, patience=10) as client:
            try:
                list(client.submit_many(source()))
            except (SystemExit, KeyboardInterrupt) as raised:
                return raised, len(client.submit(spec=SPEC))
        return None, 0

    assert await asyncio.wait_for(asyncio.to_thread(run), 30) == (error, 1)


@pytest.mark.filterwarnings("error")
async def test_a_loop_that_is_left_and_a_client_that_is_closed_make_no_noise(
    server: FakeTaskServer, caplog: pytest.LogCaptureFixture
) -> None:
    def run() -> None:
        with Client(server=server.address, patience=10) as client:
            answers = client.submit_many(jobs(MANY))
            next(answers)

    await asyncio.wait_for(asyncio.to_thread(run), 30)
    assert not caplog.records


@pytest.mark.parametrize("wrong", [None, "text", b"", {"spec": SPEC}], ids=lambda wrong: type(wrong).__name__)
@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_invalid_submission_is_refused_by_its_type(
    client: AsyncClient, wrong: Any, asynchronous: bool
) -> None:
    def given() -> Iterator[Any]:
        yield from (*jobs(3), wrong, *jobs(3))

    async def given_asynchronously() -> AsyncIterator[Any]:
        for one in given():
            yield one

    source = given_asynchronously() if asynchronous else given()
    with pytest.raises(ConfigurationError, match=rf"gave a {type(wrong).__name__}: give each as Submission"):
        async for _ in client.submit_many(source):
            pass


async def test_content_that_is_no_bytes_is_refused_by_its_type(client: AsyncClient) -> None:
    contents: tuple[Any, ...] = ("text", 7, [b"x"])
    for content in contents:
        with pytest.raises(ConfigurationError, match=rf"^content is a {type(content).__name__}: give bytes"):
            await client.submit(spec=SPEC, content=content)
    buffer: Any = bytearray(b"x")
    assert Submission(spec=SPEC, content=buffer).request().content == b"x"
