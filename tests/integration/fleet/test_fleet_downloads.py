"""Payloads for whoever holds the attempt, from the server that has them, wherever the session is connected."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc
import psycopg
import pytest

from longshore.server.model.access import Secret, new_secret
from longshore.v1 import task_pb2
from longshore.v1 import worker_service_pb2 as pb
from tests.support.servers.cluster import OwnSpools, ServerFleet, fleet_of
from tests.support.stores.postgres import Cluster
from tests.support.workers.fakeworker import FakeWorker, SessionRefused

CONTENT: Final = random.Random(9).randbytes((3 << 20) + 11)


@pytest.fixture
def fleet(tmp_path: Path, postgres: Cluster) -> Iterator[ServerFleet]:
    with fleet_of(tmp_path, postgres, "--lease", "60s", spool=OwnSpools()) as fleet:
        yield fleet
        assert fleet.discrepancies() == []


def token_of(fleet: ServerFleet, name: str) -> str:
    """A worker's token, as `longshored token create NAME --role work` makes it."""
    secret: Secret = new_secret()
    with psycopg.connect(fleet.url) as connection:
        connection.execute(
            "INSERT INTO tokens (id, name, digest, roles, created_at) VALUES (%s, %s, %s, 'work', 0)",
            (secret.id, name, secret.digest),
        )
    return str(secret)


def at(fleet: ServerFleet, number: int, token: str, session_id: str = "") -> FakeWorker:
    return FakeWorker(fleet.servers[number].address, token=token, session_id=session_id)


async def refusal(worker: FakeWorker, task_id: str, attempt: int, **more: str) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(SessionRefused) as refused:
        await worker.download(task_id, attempt, **more)  # type: ignore[arg-type]
    return refused.value.code, refused.value.reason


ELSEWHERE = (grpc.StatusCode.FAILED_PRECONDITION, "PAYLOAD_ELSEWHERE")
NOT_YOURS = (grpc.StatusCode.PERMISSION_DENIED, "NOT_YOUR_ATTEMPT")


async def test_only_the_holder_of_the_attempt_can_download_and_only_where_the_payload_is(fleet: ServerFleet) -> None:
    mine, others = token_of(fleet, "mine"), token_of(fleet, "others")
    task_id = fleet[0].push(CONTENT)
    async with at(fleet, 1, mine) as worker, at(fleet, 0, mine, worker.session_id) as there:
        stream = await worker.connect(credits=1)
        assignment = await stream.next_assignment()
        assert (assignment.task.id, assignment.attempt, assignment.payload_path) == (task_id, 1, "")
        assert await refusal(worker, task_id, 1) == ELSEWHERE
        for offset in (0, 1, len(CONTENT) - 1, len(CONTENT)):
            assert await there.download(task_id, 1, offset=offset) == CONTENT[offset:]
        for number in (0, 1):
            async with at(fleet, number, others) as stranger, at(fleet, number, mine) as sibling:
                # Another principal that knows the session's id; and the same one with another session.
                assert await refusal(stranger, task_id, 1, session_id=worker.session_id) == NOT_YOURS
                await stranger.connect()
                assert await refusal(stranger, task_id, 1) == NOT_YOURS
                await sibling.connect()
                assert await refusal(sibling, task_id, 1) == NOT_YOURS
            assert await refusal((there, worker)[number], task_id, 2) == NOT_YOURS, "no such attempt yet"
        await stream.report(assignment, pb.OUTCOME_TRANSIENT, reason="IO_ERROR", retry_after=0.01)
        assert await refusal(there, task_id, 1) == NOT_YOURS, "it has ended"
        again = await stream.next_assignment()
        assert (again.task.id, again.attempt) == (task_id, 2)
        assert await refusal(there, task_id, 1) == NOT_YOURS, "an older one"
        assert await there.download(task_id, 2) == CONTENT
        assert await refusal(worker, task_id, 1) == NOT_YOURS
        await stream.report(again, pb.OUTCOME_PERMANENT, reason="NO_SPACE")
        assert await refusal(there, task_id, 2) == NOT_YOURS
        await stream.goodbye()
    fleet[0].reaches(task_id, task_pb2.TASK_STATE_FAILED)


async def test_the_refusal_names_the_server_that_has_it(fleet: ServerFleet) -> None:
    token = token_of(fleet, "mine")
    task_id = fleet[0].push(CONTENT)
    async with at(fleet, 1, token) as worker:
        await (await worker.connect(credits=1)).next_assignment()
        request = pb.DownloadPayloadRequest(
            session_id=worker.session_id, attempt=pb.AttemptRef(task_id=task_id, attempt=1)
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await worker.stub.DownloadPayload(request, metadata=worker.metadata).read()
        assert fleet.servers[0].address in str(refused.value.details())
        fleet.servers[0].kill()
        fleet.rows("UPDATE servers SET seen_ticks = 0 WHERE spool = (SELECT spool FROM homes) RETURNING id")
        assert await refusal(worker, task_id, 1) == (grpc.StatusCode.UNAVAILABLE, "PAYLOAD_UNREACHABLE")
