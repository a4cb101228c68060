"""P4, P5, P13: the same request gives the same tasks; one connection at a time; leaving politely."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import grpc
import pytest

from longshore.server.engine.uploads.uploads import UploadLimits
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from tests.support.servers.rawgrpc import (
    METADATA,
    MIB,
    Sender,
    TaskServer,
    chunk,
    chunks,
    crc,
    finish,
    header_of,
    push_spec,
    refused,
    whole,
)
from tests.support.waiting import until

CONTENT = random.Random(0).randbytes(2 * MIB + 1)


def ids(answer: pb.UploadResponse | pb.Upload | pb.SubmitTaskResponse) -> list[str]:
    return [task.id for task in answer.tasks]


@pytest.mark.parametrize("inline", [0, 8 * MIB], ids=["spool", "inline"])
async def test_the_same_request_again_gives_the_same_tasks(tmp_path: Path, inline: int) -> None:
    limits = UploadLimits(inline_bytes=inline)
    header = header_of(spec=push_spec("a", "b", "c"), size=len(CONTENT))
    async with TaskServer(tmp_path, limits=limits) as server:
        first = await server.upload(whole(header, CONTENT))
        assert len(set(ids(first))) == 3
        assert ids(await server.upload(whole(header, CONTENT))) == ids(first)
    async with TaskServer(tmp_path, limits=limits) as server:
        assert ids(await server.upload(whole(header, CONTENT))) == ids(first)
        view = await server.get("r1")
        assert (view.complete, view.offset, view.crc32c, ids(view)) == (True, len(CONTENT), crc(CONTENT), ids(first))
        assert not view.HasField("expire_time")
        assert ids(await server.create(header)) == ids(first)
        # A client that reads the metadata sends no byte twice.
        sender = Sender(server, header)
        assert await sender.begin() == len(CONTENT)
        assert dict(await sender.call.initial_metadata())["longshore-complete"] == "true"
        await sender.send(finish(CONTENT))
        assert ids(await sender.end()) == ids(first)
        assert len(await server.tasks()) == 3


@pytest.mark.parametrize("inline", [0, 8 * MIB], ids=["spool", "inline"])
async def test_the_same_request_eight_times_at_once_makes_one_task(tmp_path: Path, inline: int) -> None:
    limits = UploadLimits(inline_bytes=inline, patience=20.0)
    async with TaskServer(tmp_path, limits=limits) as server:
        answers = await asyncio.gather(*(server.upload(whole(header_of(), CONTENT)) for _ in range(8)))
        assert len({tuple(ids(answer)) for answer in answers}) == 1
        assert len(await server.tasks()) == 1


async def test_a_second_connection_is_told_that_the_first_is_busy(tmp_path: Path) -> None:
    async with TaskServer(tmp_path) as server:
        first = Sender(server, header_of())
        await first.begin()
        await first.send(chunk(0, CONTENT[:MIB]))
        refusal = await refused(Sender(server, header_of()).begin())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "UPLOAD_IN_PROGRESS")
        view = await server.get("r1")
        assert view.active
        assert 590 < view.expire_time.ToSeconds() - time.time() < 610
        # The first one does not notice.
        await first.send(*chunks(CONTENT, start=MIB), finish(CONTENT))
        assert len((await first.end()).tasks) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"spec": push_spec("c2")},
        {"spec": push_spec(priority=1)},
        {"spec": push_spec(path="/srv/other")},
        {"size": len(CONTENT)},
    ],
    ids=["instance", "priority", "path", "size"],
)
@pytest.mark.parametrize("complete", [False, True])
async def test_another_request_under_the_same_id_is_refused(
    tmp_path: Path, change: dict[str, object], complete: bool
) -> None:
    async with TaskServer(tmp_path) as server:
        if complete:
            await server.upload(whole(header_of(), CONTENT))
        else:
            await server.create(header_of())
        refusal = await refused(Sender(server, header_of(**change)).begin())  # type: ignore[arg-type]
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
        assert (await refused(server.create(header_of(**change)))).reason == "REQUEST_ID_REUSED"  # type: ignore[arg-type]


OTHERS = {
    "shorter": CONTENT[:-1],
    "longer": CONTENT + b"x",
    "first byte": b"y" + CONTENT[1:],
    "last byte": CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]),
    "empty": b"",
}


@pytest.mark.parametrize("other", OTHERS)
async def test_other_bytes_under_the_id_of_a_complete_upload_are_refused_saying_so(tmp_path: Path, other: str) -> None:
    async with TaskServer(tmp_path) as server:
        await server.upload(whole(header_of(), CONTENT))
        tasks = await server.tasks()
        refusal = await refused(server.upload(whole(header_of(), OTHERS[other])))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
        assert "different content" in refusal.message
        assert await server.tasks() == tasks


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("first byte", "REQUEST_ID_REUSED"),
        ("last byte", "REQUEST_ID_REUSED"),
        ("shorter", "SIZE_MISMATCH"),
        ("empty", "SIZE_MISMATCH"),
    ],
)
async def test_other_bytes_are_never_joined_to_those_of_a_cut_upload(tmp_path: Path, other: str, reason: str) -> None:
    async with TaskServer(tmp_path) as server:
        sender = Sender(server, header_of())
        await sender.begin()
        await sender.send(*chunks(CONTENT))
        await refused(sender.end())
        await server.idle()
        assert (await refused(server.upload(whole(header_of(), OTHERS[other])))).reason == reason
        await server.idle()
        assert await server.tasks() == []


async def test_the_ids_of_two_callers_are_no_business_of_each_other(tmp_path: Path) -> None:
    async with TaskServer(tmp_path) as server:
        await server.upload(whole(header_of(), CONTENT))
        with pytest.raises(Exception, match="no upload 'r1' of yours"):
            await server.uploads.get("somebody else", "r1")


async def test_without_a_request_id_every_upload_is_new(tmp_path: Path) -> None:
    async with TaskServer(tmp_path) as server:
        answers = [await server.upload(whole(header_of(""), CONTENT)) for _ in range(2)]
        assert len({tuple(ids(answer)) for answer in answers}) == 2
        assert all(answer.tasks[0].request_id for answer in answers)


# Take-over ----------------------------------------------------------------------------------------------------------


async def test_a_take_over_ends_the_older_connection_and_loses_no_byte(tmp_path: Path) -> None:
    async with TaskServer(tmp_path) as server:
        old = Sender(server, header_of())
        await old.begin()
        await old.send(chunk(0, CONTENT[:MIB]))
        await until(lambda: server.uploads.statistics().bytes_received == MIB)
        new = Sender(server, header_of(take_over=True))
        assert await new.begin() == MIB
        refusal = await refused(old.call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "UPLOAD_TAKEN_OVER")
        await new.send(*chunks(CONTENT, start=MIB), finish(CONTENT))
        assert len((await new.end()).tasks) == 1
        assert server.sealed[0].read_bytes() == CONTENT


async def test_a_silent_connection_loses_its_upload_and_a_busy_one_does_not(tmp_path: Path) -> None:
    limits = UploadLimits(inline_bytes=0, silence=0.5, patience=0.2)
    async with TaskServer(tmp_path, limits=limits) as server:
        old = Sender(server, header_of())
        await old.begin()
        await old.send(chunk(0, CONTENT[:MIB]))
        await until(lambda: server.uploads.statistics().bytes_received == MIB)
        assert (await refused(Sender(server, header_of()).begin())).reason == "UPLOAD_IN_PROGRESS"
        (slot,) = server.uploads._live
        await until(lambda: slot.stream is not None and slot.stream.silent >= 0.5)
        new = Sender(server, header_of())
        assert await new.begin() == MIB
        assert (await refused(old.call)).reason == "UPLOAD_TAKEN_OVER"
        await new.send(*chunks(CONTENT, start=MIB), finish(CONTENT))
        assert len((await new.end()).tasks) == 1


async def test_ten_connections_take_over_from_each_other_and_one_task_comes_of_it(tmp_path: Path) -> None:
    """Each may be ended at any point of its way, between header and go-ahead too; each is answered all the same."""
    async with TaskServer(tmp_path) as server:

        async def one(name: str) -> str:
            try:
                return ids(await server.upload(whole(header_of(name, take_over=True), CONTENT), timeout=30))[0]
            except grpc.aio.AioRpcError as error:
                # A status that comes while the client is still sending reaches it as one of the other two at times.
                if error.code().name not in ("ABORTED", "CANCELLED", "INTERNAL"):
                    raise
                return ""

        for number in range(20):
            answers = await asyncio.gather(*(one(f"r{number}") for _ in range(10)))
            assert len({answer for answer in answers if answer}) == 1
        await server.idle()
        assert len(await server.tasks()) == 20
        assert {path.read_bytes() for path in server.sealed} == {CONTENT}


async def test_a_connection_that_says_nothing_does_not_hold_its_slot_for_ever(tmp_path: Path) -> None:
    limits = UploadLimits(inline_bytes=0, idle=0.5)
    async with TaskServer(tmp_path, limits=limits) as server:
        mute = server.stub.Upload(metadata=METADATA)
        sender = Sender(server, header_of())
        await sender.begin()
        await sender.send(chunk(0, CONTENT[:MIB]))
        for call in (sender.call, mute):
            refusal = await refused(call)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "UPLOAD_BROKEN")
        assert server.uploads.statistics().connections == 0
        assert (await server.get("r1")).offset == MIB


# Leaving ------------------------------------------------------------------------------------------------------------


async def test_draining_lets_uploads_finish_in_the_grace(tmp_path: Path) -> None:
    async with TaskServer(tmp_path) as server:
        sender = Sender(server, header_of())
        await sender.begin()
        await sender.send(chunk(0, CONTENT[:MIB]))
        draining = asyncio.create_task(server.uploads.drain(30.0))
        await until(lambda: server.uploads.statistics().draining)
        for call in (server.create(header_of("r2")), Sender(server, header_of("r3")).begin()):
            refusal = await refused(call)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        await sender.send(*chunks(CONTENT, start=MIB), finish(CONTENT))
        assert len((await sender.end()).tasks) == 1
        await asyncio.wait_for(draining, 5)


async def test_bytes_that_arrived_before_the_grace_ends_are_kept(tmp_path: Path) -> None:
    async with TaskServer(tmp_path) as server:
        sender = Sender(server, header_of())
        await sender.begin()
        await sender.send(chunk(0, CONTENT[:MIB]))
        await until(lambda: server.uploads.statistics().bytes_received == MIB)
        leaving = asyncio.create_task(server.stop(drain=0.2))
        refusal = await refused(sender.call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        await leaving
    async with TaskServer(tmp_path) as server:
        sender = Sender(server, header_of())
        assert await sender.begin() == MIB
        await sender.send(*chunks(CONTENT, start=MIB), finish(CONTENT))
        assert len((await sender.end()).tasks) == 1


# Without bytes ------------------------------------------------------------------------------------------------------


async def test_a_kept_payload_serves_more_tasks_without_being_sent_again(tmp_path: Path) -> None:
    async with TaskServer(tmp_path) as server:
        first = await server.upload(whole(header_of(), CONTENT))
        request = pb.SubmitTaskRequest(request_id="s1", spec=push_spec("c2", "c3"), payload_id=first.payload.id)
        made = await server.submit(request)
        assert [task.payload.crc32c for task in made.tasks] == [crc(CONTENT)] * 2
        assert ids(await server.submit(request)) == ids(made)
        request.spec.priority = 3
        assert (await refused(server.submit(request))).reason == "REQUEST_ID_REUSED"
        request.request_id, request.payload_id = "s2", "f" * 32
        gone = await refused(server.submit(request))
        assert (gone.code, gone.reason) == (grpc.StatusCode.NOT_FOUND, "PAYLOAD_GONE")


async def test_a_job_needs_no_payload(tmp_path: Path) -> None:
    async with TaskServer(tmp_path) as server:
        spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="resize"))
        made = await server.submit(pb.SubmitTaskRequest(spec=spec))
        assert [(task.kind, task.HasField("payload")) for task in made.tasks] == [("resize", False)]
