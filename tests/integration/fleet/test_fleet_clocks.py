"""Servers whose machines disagree about the time: it comes from the database, so nothing changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from longshore.client import Client, job_spec, push_spec
from longshore.v1 import task_pb2
from tests.support.servers.cluster import ServerFleet, fleet_of, server_on
from tests.support.servers.processes import eventually
from tests.support.servers.stage import ended
from tests.support.skewed import skewed
from tests.support.stores.postgres import Cluster

pytestmark = pytest.mark.slow

HOUR = 3600.0
LEASE = 1.5


@pytest.fixture
def fleet(tmp_path: Path, postgres: Cluster) -> Iterator[ServerFleet]:
    with fleet_of(tmp_path, postgres, "--lease", f"{LEASE}s", servers=1) as fleet:
        yield fleet


@pytest.mark.parametrize("skew", [-HOUR, HOUR], ids=["behind", "ahead"])
def test_a_server_with_a_wrong_clock_does_as_the_others_do(fleet: ServerFleet, tmp_path: Path, skew: float) -> None:
    token = fleet.servers[0].token
    lease = ("--lease", f"{LEASE}s")
    wrong = server_on(
        tmp_path, "wrong", *lease, url=fleet.url, spool=fleet.spool, token=token, environment=skewed(skew)
    )
    go_on = tmp_path / "go on"
    fleet.make_instances("web")
    with wrong, Client(server=wrong.address, token_file=wrong.token_file, patience=30.0) as there:
        here = fleet[0].client
        with fleet.handlers():
            # The wrong server's janitor looks at the lease of a worker that is connected to the right one.
            (long,) = there.submit(spec=job_spec("until", StringValue(value=str(go_on))))
            running = task_pb2.TASK_STATE_RUNNING
            eventually(lambda: here.get(long.id).state == running)
            begun = time.monotonic()
            (due,) = there.upload(b"due", spec=push_spec("web/srv/due", not_before=1.0, expire_after=60.0))
            assert abs(due.create_time.ToSeconds() - time.time()) < 60.0
            (expiring,) = here.submit(spec=job_spec("nobodys", expire_after=2.0))
            assert here.wait(due.id).state == task_pb2.TASK_STATE_SUCCEEDED
            assert 0.9 < time.monotonic() - begun < 30.0
            assert ended(there, expiring.id).state == task_pb2.TASK_STATE_EXPIRED
            eventually(lambda: time.monotonic() > begun + 3 * LEASE)
            go_on.touch()
            assert there.wait(long.id).state == task_pb2.TASK_STATE_SUCCEEDED
            assert len(there.attempts(long.id)) == 1
    assert fleet.discrepancies() == []
