"""PostgreSQL fails over to a synchronous standby under a server at work: nothing acknowledged is lost (P1)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers.processes import eventually
from tests.support.stores.postgres import SUPERUSER, Cluster, programs, running_cluster
from tests.support.stores.trouble import IN_VAIN, scene_on

pytestmark = [pytest.mark.faults, pytest.mark.slow]


@pytest.fixture
def primary() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def standby(primary: Cluster) -> Iterator[Cluster]:
    """A hot standby that each commit of the primary waits for."""
    found = programs()
    assert found is not None
    folder = Path(tempfile.mkdtemp(prefix="longshore-pg-"))
    cluster = Cluster(folder, found)
    try:
        cluster.follow(primary)
        cluster.start()
        primary.execute("ALTER SYSTEM SET synchronous_standby_names TO '*'")
        primary.execute("SELECT pg_reload_conf()")
        eventually(lambda: primary.execute("SELECT sync_state FROM pg_stat_replication") == [("sync",)])
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


def test_a_failover_in_mid_load_loses_nothing_acknowledged(primary: Cluster, standby: Cluster, tmp_path: Path) -> None:
    primary.execute("CREATE DATABASE shore")
    url = f"postgresql://{SUPERUSER}@/shore?host={primary.folder},{standby.folder}"
    with scene_on(tmp_path, url) as scene:
        # Without its standby a primary confirms nothing, so neither does the server.
        standby.stop()
        scene.notices()
        scene.refuses()
        standby.start()
        scene.recovers(may=IN_VAIN)

        primary.stop(immediate=True)
        scene.notices()
        scene.refuses()
        assert standby.execute("SELECT pg_promote()") == [(True,)]
        # The end of the scene asks for all tasks that were acknowledged.
        scene.recovers(may=IN_VAIN)
        assert standby.execute("SELECT pg_is_in_recovery()") == [(False,)]
