"""The database in trouble under a server at work: callers hear UNAVAILABLE and nothing false, what runs goes on, what
was acknowledged stays, health says how it is, and all mends itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from longshore.server import main
from tests.support.network.proxy_thread import ProxyThread
from tests.support.servers.processes import eventually
from tests.support.stores.postgres import Cluster, backends, running_cluster
from tests.support.stores.trouble import IN_VAIN, SERVING, Scene, scene_on

pytestmark = [pytest.mark.faults, pytest.mark.slow]


class Database:
    """A cluster for the tests of this module, with a proxy between it and the server."""

    def __init__(self, cluster: Cluster, proxy: ProxyThread, url: str) -> None:
        self.cluster, self.proxy, self.direct = cluster, proxy, url
        host, _, port = proxy.address.rpartition(":")
        self.name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        self.url = f"postgresql://longshore@{host}:{port}/{self.name}?sslmode=disable&gssencmode=disable"


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with (
        running_cluster() as cluster,
        ProxyThread(unix=cluster.folder / ".s.PGSQL.5432") as proxy,
        cluster.database() as url,
    ):
        yield Database(cluster, proxy, url)


@pytest.fixture(scope="module")
def scene(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One server at work through all that follows."""
    with scene_on(tmp_path_factory.mktemp("trouble"), database.url) as scene:
        yield scene


# Gone and back again --------------------------------------------------------------------------------------------------


def _immediately(cluster: Cluster) -> None:
    cluster.stop(immediate=True)


@pytest.mark.parametrize("end", [Cluster.stop, _immediately, Cluster.kill], ids=["fast", "immediate", "kill"])
def test_a_restart_in_mid_load(database: Database, scene: Scene, end: Callable[[Cluster], None]) -> None:
    end(database.cluster)
    try:
        scene.notices()
        scene.refuses()
    finally:
        database.cluster.start()
    scene.recovers()


def test_a_crash_of_one_process_of_the_database(database: Database, scene: Scene) -> None:
    os.kill(backends(database.cluster, database.direct)[0], signal.SIGKILL)
    eventually(lambda: "all server processes terminated" in (database.cluster.folder / "log").read_text())
    scene.recovers()


def test_a_connection_reset_in_mid_load(database: Database, scene: Scene) -> None:
    for _ in range(5):
        database.proxy.cut()
        scene.goes_on(1)
    scene.recovers()


# There, but not as it should be ---------------------------------------------------------------------------------------


def test_a_slow_database_is_slow_and_nothing_else(database: Database, scene: Scene) -> None:
    seen = len(scene.health)
    database.proxy.delay(0.005)
    database.cluster.execute("ALTER SYSTEM SET commit_delay TO 100000")
    database.cluster.execute("ALTER SYSTEM SET commit_siblings TO 0")
    database.cluster.execute("SELECT pg_reload_conf()")
    try:
        scene.goes_on(2, within=60)
    finally:
        database.proxy.delay(0.0)
        database.cluster.execute("ALTER SYSTEM RESET ALL")
        database.cluster.execute("SELECT pg_reload_conf()")
    assert scene.health[seen:] == []
    scene.recovers()


def test_others_have_all_connections(database: Database, scene: Scene, tmp_path: Path) -> None:
    others: list[psycopg.Connection] = []
    killer = psycopg.connect(database.cluster.url("postgres"), autocommit=True)

    def starved() -> bool:
        while True:
            try:
                others.append(psycopg.connect(database.cluster.url("postgres")))
            except psycopg.OperationalError:
                break
        ended = killer.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'longshored'"
        )
        # Nothing left to end: the server has not been faster than this at a place that had just become free.
        return ended.rowcount == 0 and scene.health[-1] != SERVING

    try:
        eventually(starved)
        scene.notices()
        scene.refuses()
        # A server that starts now says what is wrong; its supervisor tries again.
        code, said = started(tmp_path, database.url)
        assert code == 1
        assert "too many clients" in said
    finally:
        for each in (*others, killer):
            each.close()
    scene.recovers()


def test_a_connection_that_goes_nowhere(database: Database, scene: Scene) -> None:
    database.proxy.stall()
    try:
        scene.notices()
        scene.refuses()
    finally:
        database.proxy.release()
    scene.recovers(may=IN_VAIN)


# At the start ---------------------------------------------------------------------------------------------------------


def started(folder: Path, url: str) -> tuple[int, str]:
    """Exit code and one line of a server that cannot start."""
    argv = [sys.executable, "-m", "longshore.server.main", "--data-dir", str(folder), "--listen", "127.0.0.1:0"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LONGSHORE_")}
    done = subprocess.run(
        [*argv, "--database", url], env=clean, capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, _one_line(done.stderr)


def tried(url: str, **environment: str) -> tuple[int, str]:
    """The same of a command that opens the database as a server does, in this process: it is much faster."""
    done = CliRunner().invoke(main._app, ["--database", url, "migrate"], env=environment)
    return done.exit_code, _one_line(done.output)


def _one_line(output: str) -> str:
    (said,) = [line for line in output.splitlines() if line.startswith("longshored: ")]
    assert "Traceback" not in output
    assert "secret" not in output
    return said


def test_a_database_that_is_away_at_the_start_may_be_there_at_the_next(database: Database, tmp_path: Path) -> None:
    code, said = started(tmp_path, "postgresql://longshore:secret@127.0.0.1:1/x")
    assert code == 1
    assert "--database postgresql://longshore:***@127.0.0.1:1/x cannot be reached now" in said
    code, said = tried("postgresql://longshore:secret@127.0.0.1:1,127.0.0.1:2/x?sslpassword=secret")
    assert code == 1
    assert said.count("refused") >= 2


@pytest.fixture(scope="module")
def guarded(database: Database) -> str:
    """The URL of a database as a role `tenant` that needs a password and may not create tables; without either."""
    hba = database.cluster.folder / "data" / "pg_hba.conf"
    hba.write_text("local all tenant scram-sha-256\nlocal all longshore trust\nlocal replication longshore trust\n")
    database.cluster.execute("CREATE ROLE tenant LOGIN PASSWORD 'secret'")
    database.cluster.execute("CREATE DATABASE others")
    database.cluster.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC", "others")
    database.cluster.execute("SELECT pg_reload_conf()")
    return f"host={database.cluster.folder}"


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://tenant:secret-but-wrong@/others?{}", "password authentication failed"),
        ("postgresql://tenant@/others?{}&password=secret-but-wrong", "password authentication failed"),
        ("postgresql://tenant@/others?{}", "no password supplied"),
        ("postgresql://tenant:secret@/others?{}", "permission denied for schema public"),
        ("postgresql://longshore:secret@/missing?{}", 'database "missing" does not exist'),
        ("postgresql://stranger:secret@/others?{}", "no pg_hba.conf entry"),
        ("postgresql://tenant:secret@/others?{}&colour=red", "colour"),
        ("postgresql://tenant:secret@:port/others", "port"),
    ],
)
def test_errors_that_no_restart_mends_are_refused(guarded: str, url: str, named: str) -> None:
    code, said = tried(url.format(guarded))
    assert code == 2
    assert said.startswith("longshored: --database postgresql://")
    assert named in said


def test_libpq_environment_variables_are_used(guarded: str, database: Database, tmp_path: Path) -> None:
    url = f"postgresql://tenant@/others?{guarded}"
    code, said = tried(url, PGPASSWORD="secret")
    assert (code, "permission denied for schema public" in said) == (2, True)
    services = tmp_path / "services"
    services.write_text(f"[shore]\nhost={database.cluster.folder}\nuser=tenant\npassword=secret\ndbname=others\n")
    code, said = tried("postgresql://?service=shore", PGSERVICEFILE=str(services))
    assert (code, "permission denied for schema public" in said) == (2, True)


def test_a_database_without_durable_commits_is_refused(database: Database) -> None:
    database.cluster.execute("ALTER SYSTEM SET fsync TO off")
    database.cluster.execute("SELECT pg_reload_conf()")
    eventually(lambda: database.cluster.execute("SHOW fsync") == [("off",)])
    try:
        code, said = tried(database.direct)
    finally:
        database.cluster.execute("ALTER SYSTEM RESET fsync")
        database.cluster.execute("SELECT pg_reload_conf()")
    assert code == 2
    assert "fsync = off" in said
