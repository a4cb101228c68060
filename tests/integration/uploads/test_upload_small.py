"""P1 to P5 for small uploads of a declared size, which the store hears of with their finish only."""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from structlog.testing import capture_logs

from longshore.server.edge import go_ahead
from longshore.server.edge.messages.validate import upload_request
from longshore.server.engine.submissions import Defaults
from longshore.server.engine.uploads.small import SmallUpload
from longshore.server.engine.uploads.uploads import UploadLimits
from longshore.server.model.errors import NotFound, StoreUnavailable
from longshore.server.store.commands import Bounds, SubmitTasks
from longshore.server.store.store import SQLStore
from longshore.v1 import task_service_pb2 as pb
from tests.support.servers.rawgrpc import (
    Sender,
    TaskServer,
    chunk,
    chunks,
    crc,
    finish,
    header_of,
    opening,
    push_spec,
    refused,
    whole,
)
from tests.support.stores.wrapped import FailsOnce, Wrapped
from tests.support.waiting import until

R = TypeVar("R")

CONTENT = random.Random(0).randbytes(3000)
OTHER = random.Random(1).randbytes(3000)
LIMITS = UploadLimits(patience=0.2, detach=10.0)


def header(request_id: str = "r1", **fields: Any) -> pb.UploadHeader:
    return header_of(request_id, **{"size": len(CONTENT), **fields})


def served(root: Path, limits: UploadLimits = LIMITS, **options: Any) -> TaskServer:
    return TaskServer(root, limits=limits, **options)


async def rest(sender: Sender, content: bytes = CONTENT, *, start: int = 0) -> pb.UploadResponse:
    await sender.send(*chunks(content, start=start, size=1000), finish(content))
    return await sender.end()


async def check_sums(server: TaskServer) -> None:
    assert isinstance(server.store, SQLStore)
    assert await server.store.verify_counters() == []


async def check_nothing_is_left(server: TaskServer) -> None:
    """Nothing of the upload `r1`: its id is free for any other request."""
    await server.idle()
    assert await server.tasks() == []
    assert (server.sealed, server.parts) == ([], [])
    assert (await refused(server.get("r1"))).reason == "NOT_FOUND"
    await check_sums(server)
    await server.upload(whole(header(spec=push_spec("elsewhere")), CONTENT))


# The go-ahead -------------------------------------------------------------------------------------------------------


async def test_a_client_that_waits_is_let_go_ahead_and_the_store_has_nothing_yet(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        sender = Sender(server, header())
        assert await sender.begin() == 0
        assert (await server.store.figures()).open_uploads == 0
        with pytest.raises(NotFound):
            await server.uploads.get("somebody else", "r1")
        view = await server.get("r1")
        assert (view.active, view.complete, view.offset) == (True, False, 0)
        answer = await rest(sender)
        assert (answer.payload.size, answer.payload.crc32c) == (len(CONTENT), crc(CONTENT))
        assert view.id == answer.payload.id
        assert await server.store.inline_payload(answer.payload.id) == CONTENT


@pytest.mark.parametrize("restart", [False, True], ids=["same server", "after a restart"])
async def test_a_client_that_waits_is_told_that_it_was_complete(tmp_path: Path, restart: bool) -> None:
    server = served(tmp_path)
    async with server:
        first = await server.upload(whole(header(), CONTENT))
        if restart:
            await server.stop(drain=0.0)
            await server.__aenter__()
        sender = Sender(server, header())
        assert await sender.begin() == len(CONTENT)
        assert dict(await sender.call.initial_metadata())["longshore-complete"] == "true"
        await sender.send(finish(CONTENT))
        answer = await sender.end()
        assert (answer.task_ids, answer.payload) == (first.task_ids, first.payload)
        view = await server.get("r1")
        assert (view.complete, view.active, view.offset, view.crc32c) == (True, False, len(CONTENT), crc(CONTENT))
        assert list(view.task_ids) == list(first.task_ids)
        assert list((await server.create(header())).task_ids) == list(first.task_ids)


async def test_a_client_that_waits_is_refused_another_request_before_bytes(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        await server.upload(whole(header(), CONTENT))
        refusal = await refused(Sender(server, header(spec=push_spec("c2"))).begin())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_a_full_disk_refuses_a_client_that_waits_before_bytes(tmp_path: Path) -> None:
    async with served(tmp_path, reserve=1 << 60) as server:
        refusal = await refused(Sender(server, header()).begin())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SPOOL_FULL")
        assert server.uploads.statistics().bytes_received == 0
        assert (await refused(server.upload(whole(header(), CONTENT)))).reason == "SPOOL_FULL"


async def test_a_defect_ends_a_client_that_waits_and_is_logged_once(tmp_path: Path) -> None:
    class Defective(Wrapped):
        async def upload(self, principal: str, request_id: str) -> Any:
            raise ZeroDivisionError("a defect")

    async with served(tmp_path, store_of=Defective) as server:
        with capture_logs() as logs:
            refusal = await asyncio.wait_for(refused(Sender(server, header()).begin()), 10)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        (said,) = [line for line in logs if line["event"] == "defect"]
        assert said["incident"] in refusal.message
        assert isinstance(said["exc_info"], ZeroDivisionError)
        await server.idle()


async def test_messages_that_come_with_the_go_ahead_are_taken_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever is first, the go-ahead or the next message: every upload is one task, with the right bytes."""
    monkeypatch.setattr(go_ahead, "_MOMENT", 0.0)
    monkeypatch.setattr(go_ahead, "_USUAL_TIMES", 0)
    async with served(tmp_path) as server:
        for number in range(40):
            sender = Sender(server, header(f"r{number}"))
            await sender.send(opening(sender.header))
            for _ in range(number):
                await asyncio.sleep(0)  # a few steps of the loop later each time
            answer = await rest(sender)
            assert await server.store.inline_payload(answer.payload.id) == CONTENT
            again = await server.upload(whole(sender.header, CONTENT))
            assert again.task_ids == answer.task_ids
        assert len(await server.tasks()) == 40


async def test_the_wait_for_the_go_ahead_stays_short(tmp_path: Path) -> None:
    """Clients that leave without a word do not make it longer, and those of a server that stood still not much."""
    request = upload_request(header(), Defaults())
    async with served(tmp_path) as server, await server.uploads.open_small("me", request) as small:
        go_aheads = go_ahead.GoAheads()
        context: Any = None  # nothing is sent
        first = go_aheads.moment
        for _ in range(100):
            await go_aheads.prepare(small, context).settle()
        assert go_aheads.moment == first
        for _ in range(100):
            await go_aheads.prepare(small, context).heard()
        assert go_aheads.moment > first
        for _ in range(100):
            go_aheads.learn(10.0)
        assert go_aheads.moment <= 0.25


async def test_one_that_is_being_sent_is_waited_for_whatever_cuts_the_wait_off(tmp_path: Path) -> None:
    """Else the refusal of a connection that was taken over could meet the metadata on its way."""
    request = upload_request(header(), Defaults())
    looking, look_on = asyncio.Event(), asyncio.Event()

    class Slow(Wrapped):
        async def upload(self, principal: str, request_id: str) -> Any:
            looking.set()
            await look_on.wait()
            raise StoreUnavailable("pulled out by the test")

    async def cut_off_twice(small: SmallUpload) -> None:
        context: Any = None  # nothing is sent
        made = go_ahead.GoAheads().prepare(small, context)
        assert made.begin()
        await looking.wait()
        cut = asyncio.create_task(made.heard())
        await asyncio.sleep(0)
        cut.cancel()
        await asyncio.wait({cut})
        settling = asyncio.create_task(made.settle())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not settling.done()
        look_on.set()
        await settling

    async def connected(server: TaskServer) -> None:
        async with await server.uploads.open_small("me", request) as small:
            await cut_off_twice(small)

    async with served(tmp_path, store_of=Slow) as server:
        with pytest.raises(StoreUnavailable):  # the look's error ends the connection
            await connected(server)


# The same request again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["small", "with a file"])
async def test_the_same_request_again_gives_the_same_tasks_and_other_bytes_are_refused(
    tmp_path: Path, again: str
) -> None:
    """Also where a restart with other limits makes it an upload with a file."""
    several = header(spec=push_spec("a", "b", "c"))
    async with served(tmp_path) as server:
        first = await server.upload(whole(several, CONTENT))
    assert len(set(first.task_ids)) == 3
    async with served(tmp_path, LIMITS if again == "small" else UploadLimits(inline_bytes=0)) as server:
        answer = await server.upload(whole(several, CONTENT))
        assert (answer.task_ids, answer.payload) == (first.task_ids, first.payload)
        refusal = await refused(server.upload(whole(several, OTHER)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
        assert "different content" in refusal.message
        refusal = await refused(server.upload(whole(header(spec=push_spec("a")), CONTENT)))
        assert refusal.reason == "REQUEST_ID_REUSED"
        assert len(await server.tasks()) == 3


async def test_an_id_that_made_tasks_without_an_upload_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        request = pb.SubmitTaskRequest(request_id="r1", spec=push_spec(), content=CONTENT)
        await server.submit(request)
        assert (await refused(server.upload(whole(header(), CONTENT)))).reason == "REQUEST_ID_REUSED"
        await server.upload(whole(header("r2"), CONTENT))
        request.request_id = "r2"
        assert (await refused(server.submit(request))).reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("waits", [False, True])
async def test_an_upload_that_was_created_before_is_finished_as_that(tmp_path: Path, waits: bool) -> None:
    async with served(tmp_path) as server:
        created = await server.create(header())
        sender = Sender(server, header())
        if waits:
            assert await sender.begin() == 0
        else:
            await sender.send(opening(sender.header))
        answer = await rest(sender)
        assert answer.payload.id == created.id
        await server.idle()
        assert (await server.store.figures()).open_uploads == 0
        await check_sums(server)
        assert (await server.upload(whole(header(), CONTENT))).task_ids == answer.task_ids


async def test_an_upload_that_is_created_meanwhile_is_finished_as_that(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        sender = Sender(server, header())
        await sender.begin()
        created = await server.create(header())
        assert (await rest(sender)).payload.id == created.id
        await check_sums(server)


async def test_the_same_request_eight_times_at_once_makes_one_task(tmp_path: Path) -> None:
    async with served(tmp_path, UploadLimits(patience=20.0)) as server:
        answers = await asyncio.gather(*(server.upload(whole(header(), CONTENT)) for _ in range(8)))
        assert len({tuple(answer.task_ids) for answer in answers}) == 1
        assert len(await server.tasks()) == 1


@pytest.mark.parametrize("committed", [False, True], ids=["before commit", "after commit"])
@pytest.mark.parametrize("waits", [False, True])
async def test_a_lost_commit_or_answer_costs_nothing(tmp_path: Path, committed: bool, waits: bool) -> None:
    async with served(tmp_path, store_of=lambda store: FailsOnce(store, SubmitTasks, committed=committed)) as server:
        refusal = await refused(server.upload(whole(header(), CONTENT)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert len(await server.tasks()) == committed
        sender = Sender(server, header())
        start = await sender.begin() if waits else 0
        assert start == (len(CONTENT) if waits and committed else 0)
        if not waits:
            await sender.send(opening(sender.header))
        answer = await rest(sender, start=start)
        assert list(answer.task_ids) == [task.id for task in await server.tasks()]


# Broken and wrong ---------------------------------------------------------------------------------------------------

FIRST, SECOND, THIRD = chunks(CONTENT, size=1000)
OPEN = opening(header())


@pytest.mark.parametrize("messages", [[OPEN], [OPEN, FIRST], [OPEN, FIRST, SECOND, THIRD]], ids=["0", "1", "3"])
@pytest.mark.parametrize("waits", [False, True])
async def test_a_stream_that_ends_before_the_finish_leaves_nothing(
    tmp_path: Path, messages: list[pb.UploadRequest], waits: bool
) -> None:
    async with served(tmp_path) as server:
        sender = Sender(server, header())
        if waits:
            await sender.begin()
            messages = messages[1:]
        await sender.send(*messages)
        refusal = await refused(sender.end())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "UPLOAD_BROKEN")
        await check_nothing_is_left(server)


async def test_a_cancel_before_the_finish_leaves_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        sender = Sender(server, header())
        await sender.begin()
        await sender.send(FIRST, SECOND, THIRD)
        await until(lambda: server.uploads.statistics().bytes_received == len(CONTENT))
        sender.call.cancel()
        await check_nothing_is_left(server)


async def test_a_cancel_after_the_finish_is_a_task_or_none(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        for number in range(30):
            call = server.upload(whole(header(f"r{number}"), CONTENT))
            for _ in range(3 * number):
                await asyncio.sleep(0)  # a few steps of client and server later each time
            call.cancel()
            answer = await server.upload(whole(header(f"r{number}", take_over=True), CONTENT))
            assert len(answer.task_ids) == 1
        await server.idle()
        assert len(await server.tasks()) == 30
        await check_sums(server)


WRONG: dict[str, tuple[list[pb.UploadRequest], str]] = {
    "crc of the whole": ([OPEN, FIRST, SECOND, THIRD, finish(CONTENT, wrong=1)], "CRC_MISMATCH"),
    "crc of the only chunk": ([OPEN, chunk(0, CONTENT), finish(CONTENT, wrong=1)], "CRC_MISMATCH"),
    "crc of a chunk": ([OPEN, FIRST, chunk(1000, CONTENT[1000:], wrong=1)], "CRC_MISMATCH"),
    "too small a size": ([OPEN, FIRST, SECOND, THIRD, finish(CONTENT, size=5)], "SIZE_MISMATCH"),
    "less than declared": ([OPEN, FIRST, finish(CONTENT[:1000])], "SIZE_MISMATCH"),
    "more than declared": ([OPEN, chunk(0, CONTENT + b"x")], "SIZE_MISMATCH"),
    "sha-256": ([opening(header(sha256=bytes(32))), FIRST, SECOND, THIRD, finish(CONTENT)], "SHA256_MISMATCH"),
    "two headers": ([OPEN, OPEN], "PROTOCOL_VIOLATION"),
    "bytes after the finish": ([OPEN, chunk(0, CONTENT), finish(CONTENT), FIRST], "PROTOCOL_VIOLATION"),
    "two finishes": ([OPEN, chunk(0, CONTENT), finish(CONTENT), finish(CONTENT)], "PROTOCOL_VIOLATION"),
    "twice": ([OPEN, FIRST, FIRST], "CHUNK_OUT_OF_ORDER"),
    "not from the start": ([OPEN, SECOND], "CHUNK_OUT_OF_ORDER"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_upload_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    messages, reason = WRONG[name]
    async with served(tmp_path) as server:
        refusal = await refused(server.upload(messages))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
        await check_nothing_is_left(server)


async def test_a_true_sha256_is_kept_with_the_payload(tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).digest()
    async with served(tmp_path) as server:
        answer = await server.upload(whole(header(sha256=digest), CONTENT))
        assert answer.payload.sha256 == digest


async def test_an_empty_file_travels_too(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        for _ in range(2):
            answer = await server.upload(whole(header(size=0), b""))
            assert await server.store.inline_payload(answer.payload.id) == b""
        assert len(await server.tasks()) == 1


# One connection at a time, limits, leaving --------------------------------------------------------------------------


async def test_a_take_over_ends_the_older_connection(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        old = Sender(server, header())
        await old.begin()
        await old.send(FIRST)
        assert (await refused(Sender(server, header()).begin())).reason == "UPLOAD_IN_PROGRESS"
        new = Sender(server, header(take_over=True))
        assert await new.begin() == 0
        refusal = await refused(old.call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "UPLOAD_TAKEN_OVER")
        await rest(new, OTHER)
        (task,) = await server.tasks()
        assert task.submission.payload is not None
        assert await server.store.inline_payload(task.submission.payload.id) == OTHER


async def test_ten_connections_take_over_from_each_other_and_one_task_comes_of_it(tmp_path: Path) -> None:
    async with served(tmp_path) as server:

        async def one(name: str) -> str:
            try:
                return str((await server.upload(whole(header(name, take_over=True), CONTENT), timeout=30)).task_ids[0])
            except grpc.aio.AioRpcError as error:
                if error.code().name not in ("ABORTED", "CANCELLED", "INTERNAL"):
                    raise
                return ""

        for number in range(20):
            answers = await asyncio.gather(*(one(f"r{number}") for _ in range(10)))
            assert len({answer for answer in answers if answer}) == 1
        await server.idle()
        assert len(await server.tasks()) == 20


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        (Bounds(queue_tasks=1), "QUEUE_FULL"),
        (Bounds(caller_tasks=1), "CALLER_SHARE"),
        (Bounds(spool_bytes=len(CONTENT) + 1), "SPOOL_FULL"),
    ],
    ids=["queue", "caller", "spool"],
)
async def test_a_bound_refuses_it_and_an_accepted_one_is_answered_all_the_same(
    tmp_path: Path, bounds: Bounds, reason: str
) -> None:
    async with served(tmp_path, UploadLimits(bounds=bounds)) as server:
        first = await server.upload(whole(header("r0"), CONTENT))
        refusal = await refused(server.upload(whole(header(), CONTENT)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
        assert (await server.upload(whole(header("r0"), CONTENT))).task_ids == first.task_ids
        await check_sums(server)


async def test_a_process_serves_so_many_connections_and_no_more(tmp_path: Path) -> None:
    async with served(tmp_path, UploadLimits(connections=2)) as server:
        for number in range(2):
            await Sender(server, header(f"r{number}")).begin()
        assert (await refused(Sender(server, header("r2")).begin())).reason == "TOO_MANY_UPLOADS"


async def test_a_connection_that_says_nothing_is_ended(tmp_path: Path) -> None:
    async with served(tmp_path, UploadLimits(idle=0.3)) as server:
        sender = Sender(server, header())
        await sender.begin()
        await sender.send(FIRST)
        assert (await refused(sender.call)).reason == "UPLOAD_BROKEN"
        await check_nothing_is_left(server)


async def test_draining_lets_it_finish_in_the_grace_and_ends_it_then(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        sender, slow = Sender(server, header()), Sender(server, header("slow"))
        await sender.begin()
        await slow.begin()
        leaving = asyncio.create_task(server.stop(drain=0.5))
        await until(lambda: server.uploads.statistics().draining)
        assert (await refused(Sender(server, header("late")).begin())).reason == "DRAINING"
        assert len((await rest(sender)).task_ids) == 1
        refusal = await refused(slow.call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        await leaving


async def test_one_of_more_than_the_limit_is_opened_as_ever(tmp_path: Path) -> None:
    large = random.Random(2).randbytes(64 * 1024 + 1)
    kinds: list[tuple[str, dict[str, Any], bytes]] = [("large", {"size": len(large)}, large), ("unknown", {}, CONTENT)]
    async with served(tmp_path) as server:
        for name, fields, content in kinds:
            sender = Sender(server, header_of(name, **fields))
            await sender.begin()
            assert (await server.store.figures()).open_uploads == 1
            await rest(sender, content)
        assert [path.read_bytes() for path in server.sealed] == [large]
