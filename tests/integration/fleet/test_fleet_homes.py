"""Two servers with spools of their own, real processes on one PostgreSQL: uploads and payloads find their way."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.v1 import task_pb2
from tests.support.servers.cluster import FolderSpool, OwnSpools, ServerFleet, fleet_of, server_on
from tests.support.servers.processes import eventually
from tests.support.stores.postgres import Cluster

MIB = 1 << 20
LARGE = random.Random(3).randbytes(3 * MIB + 7)
OPTIONS = ("--no-share-spool", "--lease", "2s")


@pytest.fixture
def apart(tmp_path: Path, postgres: Cluster) -> Iterator[ServerFleet]:
    """Two servers, each with a spool of its own."""
    with fleet_of(tmp_path, postgres, *OPTIONS, spool=OwnSpools()) as fleet:
        yield fleet
        assert fleet.discrepancies() == []


def homes(fleet: ServerFleet) -> int:
    return int(fleet.rows("SELECT count(*) FROM homes")[0][0])


def delivered(fleet: ServerFleet, task_id: str, content: bytes, to: str = "web/etc/motd", *, through: int = 0) -> None:
    fleet[through].reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)
    found = (fleet.instances / to).read_bytes()
    assert hashlib.sha256(found).digest() == hashlib.sha256(content).digest()


def test_a_worker_downloads_from_the_server_that_has_the_payload(apart: ServerFleet) -> None:
    with apart.worker(at=[1]):
        large = apart[0].push(LARGE)
        delivered(apart, large, LARGE)
        small = apart[0].push(b"hello", "web/etc/issue")
        delivered(apart, small, b"hello", "web/etc/issue")
        back = apart[1].push(LARGE[::-1], "web/etc/back")
        delivered(apart, back, LARGE[::-1], "web/etc/back")
    assert all(attempt.outcome == "OK" for task in (large, small, back) for attempt in apart[0].client.attempts(task))
    eventually(lambda: apart.leftovers() == [] and homes(apart) == 0, what="each server has removed what it had")


def test_servers_on_one_machine_offer_only_their_own_spool_files(tmp_path: Path, postgres: Cluster) -> None:
    with fleet_of(tmp_path, postgres, "--lease", "2s", spool=OwnSpools()) as fleet, fleet.worker(at=[1]):
        for number in (0, 1):
            task = fleet[number].push(LARGE, f"web/etc/from-{number}")
            delivered(fleet, task, LARGE, f"web/etc/from-{number}")
        eventually(lambda: fleet.leftovers() == [], what="nothing is left")


def test_a_missing_payload_is_reported_until_its_server_returns(apart: ServerFleet) -> None:
    task_id = apart[0].push(LARGE, attempt_limit=50)
    apart.servers[0].kill()
    with apart.worker(at=[1]):

        def told() -> str:
            task = apart[1].client.get(task_id)
            return task.error.message if "spool" in task.error.message else ""

        # Within the first half minute its entry is alive, and its address refuses connections.
        apart.rows(
            "UPDATE servers SET seen_ticks = seen_ticks - 60 WHERE address = %s RETURNING id", apart.servers[0].address
        )
        message = eventually(told, what="the missing server is named")
        assert apart.servers[0].address in message
        stats = {row.address: row for row in apart[1].client.stats().servers}
        assert not stats[apart.servers[0].address].alive
        assert stats[apart.servers[0].address].files == 1
        assert "no server has its spool" in stats[apart.servers[0].address].problem
        apart.servers[0].start()
        delivered(apart, task_id, LARGE, through=1)
    eventually(lambda: apart.leftovers() == [] and homes(apart) == 0, what="nothing is left")


def test_the_spool_may_come_back_at_another_server(apart: ServerFleet, tmp_path: Path) -> None:
    """An operator's remedy: start any longshored on the spool of one that does not come back."""
    task_id = apart[0].push(LARGE, attempt_limit=50)
    apart.servers[0].kill()
    spool = apart.servers[0].data / "spool"
    heir = server_on(
        tmp_path,
        "heir",
        *OPTIONS,
        url=apart.url,
        spool=FolderSpool(spool),
        token=apart.servers[1].token,
        environment={},
    )
    with heir, apart.worker(at=[1]):
        delivered(apart, task_id, LARGE, through=1)
        eventually(lambda: apart.leftovers() == [] and homes(apart) == 0, what="nothing is left")


def test_stats_show_the_servers(apart: ServerFleet) -> None:
    rows = apart[0].client.stats().servers
    assert sorted(row.address for row in rows) == sorted(server.address for server in apart.servers)
    assert all(row.alive and row.files == 0 and not row.problem for row in rows)
    assert len({row.spool for row in rows}) == 2
    apart.servers[1].terminate()
    assert [row.address for row in apart[0].client.stats().servers] == [apart.servers[0].address]
