"""`longshored migrate`, beside servers and without them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longshore.client import Client, push_spec
from longshore.server import main
from longshore.server.store.tables.schema_version import OURS
from longshore.v1 import task_pb2
from tests.support.servers.processes import ServerProcess, eventually
from tests.support.servers.stage import Stage
from tests.support.stores.postgres import Cluster
from tests.support.stores.schemas import leave_at
from tests.support.stores.storekinds import PostgresKind

pytestmark = pytest.mark.embedded("it is about the database itself")

BEFORE, NOW = f"{OURS - 1:04}", f"{OURS:04}"


def ran(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main._app, list(arguments))
    return done.exit_code, done.output.strip()


@pytest.fixture
def database(postgres: Cluster) -> Iterator[PostgresKind]:
    """One that the version before made."""
    with postgres.database() as url:
        kind = PostgresKind(url)
        leave_at(kind, OURS - 1)
        yield kind


def test_migrate_reports_what_it_does(database: PostgresKind) -> None:
    options = ("--database", database.url)
    before = f"The database has schema {BEFORE}: `longshored migrate` would bring it to schema {NOW}."
    assert ran(*options, "migrate", "--check") == (3, before)
    assert ran(*options, "migrate") == (0, f"The database had schema {BEFORE} and has schema {NOW} now.")
    nothing = f"The database has schema {NOW}: there is nothing to do."
    assert ran(*options, "migrate") == (0, nothing)
    assert ran(*options, "migrate", "--check") == (0, nothing)
    leave_at(database, OURS + 1)
    code, said = ran(*options, "migrate")
    assert (code, f"{OURS + 1:04}, newer than this version's" in said) == (0, True)
    database.execute(f"UPDATE alembic_version SET version_num = '{OURS + 2:04}'")
    code, said = ran(*options, "migrate")
    assert (code, "newer version" in said) == (2, True)


def test_a_file_is_made_and_only_when_asked_for(tmp_path: Path) -> None:
    data = tmp_path / "data"
    config = tmp_path / "longshored.toml"
    config.write_text(f'data-dir = "{data}"\n')
    options = ("--config", str(config))
    code, said = ran(*options, "migrate", "--check")
    assert (code, said) == (3, f"The database is empty: `longshored migrate` would bring it to schema {NOW}.")
    assert not data.exists()
    assert ran(*options, "migrate") == (0, f"The database was empty and has schema {NOW} now.")
    assert ran(*options, "migrate", "--check") == (0, f"The database has schema {NOW}: there is nothing to do.")


def test_a_file_that_a_server_has_is_the_servers(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        code, said = ran("--data-dir", str(server.data), "migrate")
    assert (code, f"pid {server.pid}" in said) == (2, True)


@pytest.mark.slow
def test_a_server_works_on_the_schema_before_and_learns_of_the_migration(
    database: PostgresKind, tmp_path: Path
) -> None:
    with (
        ServerProcess(tmp_path, "--database", database.url, "--log-format", "json", "--drain-grace", "0s") as server,
        Client(server=server.address, token_file=server.token_file, patience=30.0) as client,
    ):
        stage = Stage(tmp_path, server, client)
        (said,) = server.events("schema_before")
        assert "longshored migrate" in said["remedy"]
        with stage.worker():
            assert client.wait(stage.push(b"before")).state == task_pb2.TASK_STATE_SUCCEEDED
            assert client.upload(b"x" * 100_000, spec=push_spec("web/etc/large"))
            assert ran("--database", database.url, "migrate")[0] == 0
            eventually(lambda: list(server.events("schema_migrated")))
            assert client.wait(stage.push(b"after")).state == task_pb2.TASK_STATE_SUCCEEDED
        # One that skips a version beneath it is nothing it could go on with.
        database.execute(f"UPDATE alembic_version SET version_num = '{OURS + 2:04}'")
        eventually(lambda: not server.running, within=40)
        assert server.process.returncode == 1
        assert "newer version" in next(server.events("schema_outgrown"))["message"]
