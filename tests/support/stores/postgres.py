"""A PostgreSQL of the tests' own: a cluster made by initdb in a temporary directory, reached through a unix socket."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest

from longshore.server.model.clock import Clock
from longshore.server.model.events import Policy
from longshore.server.store.migrations.run import migrate
from longshore.server.store.postgres.dialect import PostgresDialect, PostgresStore
from longshore.server.store.transaction.limits import ConcurrencyLimits
from longshore.server.store.transaction.memory import Memory
from tests.support.parts import require

WITHIN = 30.0
"""Seconds for the server to start or to stop."""

TEMPLATE = "longshore_template"
SUPERUSER = "longshore"

_SETTINGS = """
listen_addresses = ''
unix_socket_permissions = 0777
max_connections = 60
shared_buffers = 32MB
max_wal_size = 256MB
autovacuum = off
log_min_messages = warning
"""


def programs() -> Path | None:
    """The folder of initdb and postgres. Debian keeps them apart, one folder for each version."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    found = shutil.which("initdb")
    candidates = [*debian, *([Path(found).resolve().parent] if found else [])]
    return next((path for path in candidates if (path / "initdb").exists() and (path / "postgres").exists()), None)


class Cluster:
    """One server. Stopped and started again by a test that needs it; `url` stays the same."""

    def __init__(self, folder: Path, bin_folder: Path, environment: Mapping[str, str] | None = None) -> None:
        """`environment`: what its processes get besides."""
        self.folder = folder
        self._environment = dict(environment or {})
        self._bin = bin_folder
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self.user = _unprivileged()

    def make(self) -> None:
        """initdb, durable as a real one."""
        if self.user is not None:
            os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)
        self.run(
            "initdb", "-D", str(self.folder / "data"), "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-locale", "-N"
        )
        with (self.folder / "data" / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS)

    def start(self) -> None:
        command = [
            *self._as_user(),
            str(self._bin / "postgres"),
            "-D",
            str(self.folder / "data"),
            "-k",
            str(self.folder),
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment},
                start_new_session=True,
            )
        deadline = time.monotonic() + WITHIN
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError((self.folder / "log").read_text()[-3000:]) from None
                time.sleep(0.02)
            else:
                return

    def stop(self, *, immediate: bool = False) -> None:
        """Fast, or immediate: as after a crash, with recovery at the next start."""
        if self._process is None:
            return
        os.kill(self._process.pid, signal.SIGQUIT if immediate else signal.SIGINT)
        self._process.wait(WITHIN)
        self._process = None

    def kill(self) -> None:
        """kill -9 of the postmaster. Returns when its children have noticed, and another may start."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._process.kill()
        self._process.wait(WITHIN)
        self._process = None
        deadline = time.monotonic() + WITHIN
        while any(Path(f"/proc/{child}").exists() for child in children):
            assert time.monotonic() < deadline, "processes of a killed PostgreSQL stay"
            time.sleep(0.02)

    def follow(self, primary: Cluster) -> None:
        """Make it a standby of that cluster; not started. Synchronous where the primary says so."""
        if self.user is not None:
            os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)
        data = str(self.folder / "data")
        self.run("pg_basebackup", "-h", str(primary.folder), "-U", SUPERUSER, "-D", data, "-R", "-c", "fast", "-N")

    def back_up(self, to: Path) -> None:
        """A base backup of the running cluster, complete in itself: as of its end."""
        to.mkdir()
        if self.user is not None:
            os.chown(to, self.user.pw_uid, self.user.pw_gid)
        self.run("pg_basebackup", "-h", str(self.folder), "-U", SUPERUSER, "-D", str(to), "-c", "fast", "-X", "stream")

    def put_back(self, backup: Path) -> None:
        """Have a stopped cluster begin at that base backup."""
        shutil.rmtree(self.folder / "data")
        shutil.copytree(backup, self.folder / "data", copy_function=shutil.copy2)
        (self.folder / "data").chmod(0o700)
        if self.user is not None:
            for path in (self.folder / "data", *(self.folder / "data").rglob("*")):
                os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def url(self, database: str) -> str:
        return f"postgresql://{SUPERUSER}@/{database}?host={self.folder}"

    def execute(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """A statement of an operator."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new database with the schema; dropped at the end."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def empty_database(self) -> Iterator[str]:
        """The URL of a new database without anything."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as_user(), str(self._bin / program), *arguments], capture_output=True, check=False, cwd="/"
        )
        assert done.returncode == 0, done.stderr.decode()

    def _as_user(self) -> Sequence[str]:
        """Return the words before a command that run it as the user. Popen's own `user` forks: the fork of a process
        in which gRPC has threads may die before it becomes the other program."""
        if self.user is None:
            return ()
        return ("setpriv", f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}", "--clear-groups")


def _unprivileged() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return known.get("postgres") or known["nobody"]


@contextmanager
def running_cluster(environment: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    found = programs()
    require(found is not None, "PostgreSQL's initdb and postgres (install postgresql)")
    assert found is not None
    # tmp_path will not do: a socket's path has at most 107 characters, and the folder must let another user in.
    folder = Path(tempfile.mkdtemp(prefix="longshore-pg-"))
    cluster = Cluster(folder, found, environment)
    try:
        cluster.make()
        cluster.start()
        cluster.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE template0")
        dialect = PostgresDialect(cluster.url(TEMPLATE))
        migrate(dialect.engine)
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


_open: list[Iterator[Any]] = []


@cache
def shared_cluster() -> Cluster:
    """The session's cluster, for what is no fixture's business (Hypothesis); started at the first use."""
    context = running_cluster()
    _open.append(context)  # type: ignore[arg-type]
    return context.__enter__()


def stop_shared_cluster() -> None:
    while _open:
        _open.pop().__exit__(None, None, None)  # type: ignore[attr-defined]
    shared_cluster.cache_clear()


@pytest.fixture(scope="session")
def postgres() -> Cluster:
    """A running PostgreSQL for all tests of the session. Whoever breaks it takes `own_postgres`."""
    return shared_cluster()


@pytest.fixture
def own_postgres() -> Iterator[Cluster]:
    """A running PostgreSQL for this test alone."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session", autouse=True)
def _stop_postgres() -> Iterator[None]:
    yield
    stop_shared_cluster()


@asynccontextmanager
async def opened_postgres(
    url: str,
    clock: Clock | None,
    *,
    policy: Policy | None = None,
    limits: ConcurrencyLimits | None = None,
    memory: Memory | None = None,
) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(
        url=url, clock=clock, policy=policy or Policy(), limits=limits or ConcurrencyLimits(), memory=memory
    )
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def backends(cluster: Cluster, url: str) -> Sequence[int]:
    """The pids of the server's processes that serve this database."""
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    rows = cluster.execute(
        f"SELECT pid FROM pg_stat_activity WHERE datname = '{name}' AND application_name = 'longshored'"
    )
    return [row[0] for row in rows]
