"""Small files that come along with their submission, through the whole server: P1, P2, P3, P4 as for an upload."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import google_crc32c
import grpc
import pytest

from longshore.client import Submission, push_spec
from longshore.contract.limits import LARGEST_CONTENT
from longshore.server.engine.uploads.limits import UploadLimits
from longshore.server.store.commands import Bounds
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from tests.support.servers import rawgrpc
from tests.support.servers.processes import eventually
from tests.support.servers.rawgrpc import TaskServer, refused
from tests.support.servers.stage import staged

SPEC = rawgrpc.push_spec("web")


def request(content: bytes, request_id: str = "r", **more: Any) -> pb.SubmitTaskRequest:
    return pb.SubmitTaskRequest(request_id=request_id, spec=SPEC, content=content, **more)


@pytest.mark.cluster("P4")
def test_contents_are_delivered_and_leave_no_file_behind(tmp_path: Path) -> None:
    contents = {f"web/etc/f{number}": os.urandom(number * 700) for number in range(60)}
    with staged(tmp_path) as stage:

        def push() -> dict[str, str]:
            jobs = (
                Submission(spec=push_spec(destination, mode=0o640), content=content, request_id=f"r-{destination}")
                for destination, content in contents.items()
            )
            answers = list(stage.client.submit_many(jobs))
            assert all(one.error is None for one in answers)
            return {one.submission.request_id: one.task_ids[0] for one in answers}

        first = push()
        stage.server.kill()
        stage.server.start()
        assert push() == first
        with stage.worker():
            for task_id in first.values():
                stage.reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)
        for destination, content in contents.items():
            file = stage.instances / destination
            assert (file.read_bytes(), file.stat().st_mode & 0o777) == (content, 0o640)
        eventually(lambda: stage.client.stats().spool_bytes == 0, what="the payloads' removal")
        assert push() == first
        assert not stage.server.leftovers()


async def test_other_bytes_under_the_same_id_are_refused(server: TaskServer) -> None:
    await server.submit(request(b"one"))
    await server.submit(request(b"one"))
    refusal = await refused(server.submit(request(b"two")))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert len(await server.tasks()) == 1


async def test_bytes_that_were_damaged_on_the_way_are_refused(server: TaskServer) -> None:
    wrong = google_crc32c.value(b"one") ^ 1
    refusal = await refused(server.submit(request(b"one", content_crc32c=wrong)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CRC_MISMATCH")
    answer = await server.submit(request(b"one", content_crc32c=google_crc32c.value(b"one")))
    assert answer.tasks[0].payload.crc32c == google_crc32c.value(b"one")


async def test_a_content_that_is_too_large_needs_an_upload(server: TaskServer) -> None:
    assert (await server.submit(request(bytes(LARGEST_CONTENT), "largest"))).tasks
    refusal = await refused(server.submit(request(bytes(LARGEST_CONTENT + 1))))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    refusal = await refused(server.submit(request(b"x", payload_id="a" * 32)))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    refusal = await refused(server.submit(pb.SubmitTaskRequest(spec=SPEC, content_crc32c=1)))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert len(await server.tasks()) == 1


async def test_the_spools_bound_counts_them(tmp_path: Path) -> None:
    limits = UploadLimits(patience=0.2, detach=10.0, bounds=Bounds(spool_bytes=1000))
    async with TaskServer(tmp_path, limits=limits) as server:
        assert (await server.submit(request(bytes(900), "fits"))).tasks
        refusal = await refused(server.submit(request(bytes(101), "too much")))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SPOOL_FULL")
        assert (await server.submit(request(bytes(900), "fits"))).tasks
        assert (await server.submit(request(bytes(100), "fits too"))).tasks


async def test_a_full_disk_refuses_new_contents_and_keeps_the_old(tmp_path: Path) -> None:
    async with TaskServer(tmp_path) as server:
        first = await server.submit(request(b"x" * 100, "first"))
    async with TaskServer(tmp_path, reserve=1 << 60) as server:
        refusal = await refused(server.submit(request(b"x" * 100, "second")))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SPOOL_FULL")
        again = await server.submit(request(b"x" * 100, "first"))
        assert again.tasks[0].id == first.tasks[0].id
        assert len(await server.tasks()) == 1
