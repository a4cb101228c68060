"""Clients of several real servers: uploads, watches and calls go on while servers die and leave."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from longshore.client import UploadProgress, job_spec, push_spec
from longshore.v1 import task_pb2
from tests.support.servers.cluster import OwnSpools, ServerFleet, fleet_of
from tests.support.servers.processes import eventually
from tests.support.stores.postgres import Cluster

MIB = 1024 * 1024


SPOOLS = {"one spool": None, "own spools": OwnSpools()}


@pytest.fixture(scope="module", params=SPOOLS)
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres: Cluster
) -> Iterator[ServerFleet]:
    """Two servers and a worker that knows both."""
    root = tmp_path_factory.mktemp("clients")
    with fleet_of(root, postgres, spool=SPOOLS[request.param]) as fleet, fleet.handlers():
        fleet.make_instances("web")
        yield fleet


def test_an_upload_goes_on_at_the_other_server(fleet: ServerFleet) -> None:
    """Each of them is killed once: the one that has the upload, wherever that is, and the one that it moved to."""
    content = os.urandom(90 * MIB)
    first, second = fleet.servers
    sent: list[int] = []

    def kill(progress: UploadProgress) -> None:
        sent.append(progress.sent)
        if progress.sent >= 30 * MIB and first.running and second.running:
            first.kill()
        elif progress.sent >= 60 * MIB and second.running:
            first.start()
            second.kill()

    with fleet.client() as client:
        try:
            (task,) = client.upload(content, spec=push_spec("web/srv/big"), progress=kill)
        finally:
            for server in fleet.servers:
                if not server.running:
                    server.start()
        assert sent[-1] == len(content)
        assert any(two < one for one, two in itertools.pairwise(sent)), "it was cut, and went on elsewhere"
        client.wait(task.id)
    delivered = (fleet.instances / "web" / "srv" / "big").read_bytes()
    assert hashlib.sha256(delivered).digest() == hashlib.sha256(content).digest()


@pytest.mark.parametrize("fleet", ["one spool"], indirect=True)
def test_watches_and_calls_go_on_while_servers_restart(fleet: ServerFleet) -> None:
    """Each server is killed while tasks run, are watched and submitted through whichever is there."""
    seen: dict[str, list[int]] = {}
    with fleet.client() as client, ThreadPoolExecutor(8) as pool:

        def follow(number: int) -> task_pb2.Task:
            (task,) = client.submit(spec=job_spec("flaky", attempt_limit=100), request_id=f"{fleet.root}-{number}")
            for update in client.watch(task.id, after_revision=0):
                seen.setdefault(task.id, []).append(update.revision)
                task = update
            return task

        began = time.monotonic()
        running = [pool.submit(follow, number) for number in range(8)]
        for server in fleet.servers:
            eventually(lambda: len(seen) > 0, what="tasks run")
            server.kill()
            server.start()
        for each in running:
            task = each.result(60)
            assert task.state == task_pb2.TASK_STATE_SUCCEEDED
            assert seen[task.id] == list(range(1, task.revision + 1))
        assert time.monotonic() - began < 60
