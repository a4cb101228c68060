"""`longshored token`: made once shown once, listed without secrets, revoked; on both databases, beside a server."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import stat
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from longshore.server import main
from longshore.server.data.datadir import DataDir
from longshore.server.model.access import Role, read_secret
from longshore.server.model.clock import SystemClock
from longshore.server.model.events import Policy
from longshore.server.store.migrations.run import migrate
from longshore.server.store.sql.link import Link
from longshore.server.store.sqlite.dialect import SQLiteDialect, SQLiteStore
from longshore.server.store.transaction.limits import ConcurrencyLimits
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import task_service_pb2_grpc as pb_grpc
from tests.support.servers.processes import ServerProcess, eventually
from tests.support.servers.tokens import make_token, metadata, token_admin
from tests.support.stores.postgres import Cluster


class Command:
    """`longshored ... token`."""

    def __init__(self, *options: str) -> None:
        self._options = options

    def run(self, *arguments: str) -> Result:
        environment = {name: None for name in os.environ if name.startswith("LONGSHORE_")} | {"COLUMNS": "200"}
        return CliRunner().invoke(main._app, [*self._options, "token", *arguments], env=environment)

    def good(self, *arguments: str) -> Result:
        done = self.run(*arguments)
        assert done.exit_code == 0, done.output
        return done

    def create(self, *arguments: str) -> str:
        return self.good("create", *arguments).stdout.strip()

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.good("list", "--output", "json").stdout)
        return found

    def refused(self, *arguments: str, code: int = 2) -> str:
        done = self.run(*arguments)
        assert done.exit_code == code, done.output
        assert not isinstance(done.exception, (TypeError, AttributeError))
        return done.output


@pytest.fixture(params=["sqlite", "postgres"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    data = ("--data-dir", str(tmp_path / "data"))
    if request.param == "sqlite":
        yield Command(*data)
        return
    cluster: Cluster = request.getfixturevalue("postgres")
    with cluster.database() as url:
        yield Command(*data, "--database", url)


@pytest.fixture
def local(tmp_path: Path) -> Command:
    return Command("--data-dir", str(tmp_path / "data"))


def test_a_token_is_made_listed_and_revoked(command: Command) -> None:
    token = command.create("ci", "--role", "work", "--role", "submit", "--expires", "90d")
    secret = read_secret(token)
    assert secret is not None
    (row,) = command.listed()
    assert (row["id"], row["name"], row["roles"], row["state"]) == (secret.id, "ci", ["submit", "work"], "valid")
    lifetime = datetime.fromisoformat(row["expires"]) - datetime.fromisoformat(row["created"])
    assert lifetime.days == 90
    assert row["revoked"] is None
    for output in (command.good("list").output, json.dumps(row)):
        assert secret.secret not in output
    assert secret.id in command.good("revoke", secret.id).stdout
    (row,) = command.listed()
    assert (row["state"], row["revoked"] is not None) == ("revoked", True)
    assert "already" in command.good("revoke", secret.id).stdout


def test_time_is_the_databases(tmp_path: Path, postgres: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time()
    monkeypatch.setattr("longshore.server.store.postgres.clock.time.time", lambda: real + 86400)
    with postgres.database() as url:
        command = Command("--data-dir", str(tmp_path / "data"), "--database", url)
        command.create("ci", "--role", "submit", "--expires", "1h")
        (row,) = command.listed()
    assert abs(datetime.fromisoformat(row["created"]).timestamp() - real) < 3600
    assert row["state"] == "valid"


def test_a_role_of_a_newer_version_is_left_out(local: Command, tmp_path: Path) -> None:
    local.create("ci", "--role", "submit")
    with sqlite3.connect(tmp_path / "data" / "longshore.db") as connection:
        connection.execute("UPDATE tokens SET roles = 'submit,rule'")
    connection.close()
    assert [row["roles"] for row in local.listed()] == [["submit"]]


def test_a_name_revokes_all_its_tokens(command: Command) -> None:
    for name in ("ci", "ci", "other"):
        command.create(name, "--role", "submit")
    assert len(json.loads(command.good("revoke", "ci", "--output", "json").stdout)["revoked"]) == 2
    assert {row["name"]: row["state"] for row in command.listed()} == {"ci": "revoked", "other": "valid"}


def test_the_text_output_of_the_token_command(local: Command) -> None:
    done = local.good("create", "ci", "--role", "operate")
    assert read_secret(done.stdout.strip()) is not None
    assert "expires never" in done.stderr
    lines = local.good("list").stdout.splitlines()
    assert lines[0].split() == ["ID", "NAME", "ROLES", "CREATED", "EXPIRES", "STATE"]
    assert lines[1].split()[1:3] == ["ci", "operate"]
    assert lines[1].split()[-2:] == ["never", "valid"]


def test_a_token_may_go_into_a_file_and_nowhere_else(local: Command, tmp_path: Path) -> None:
    file = tmp_path / "token"
    done = local.good("create", "ci", "--role", "submit", "--token-file", str(file))
    token = file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_secret(token) is not None
    assert token.split("_", 2)[2] not in done.output
    assert "already" in local.refused("create", "ci", "--role", "submit", "--token-file", str(file))
    assert len(local.listed()) == 1
    missing = tmp_path / "no" / "token"
    assert "--token-file" in local.refused("create", "ci", "--role", "submit", "--token-file", str(missing))
    written = local.good("create", "two", "--role", "work", "--token-file", str(tmp_path / "t2"), "--output", "json")
    assert json.loads(written.stdout)["token_file"] == str(tmp_path / "t2")
    shown = json.loads(local.good("create", "three", "--role", "work", "--output", "json").stdout)
    assert read_secret(shown["token"]) is not None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("create", "ci"), "--role"),
        (("create", "ci", "--role", "admin"), "admin"),
        (("create", "local", "--role", "submit"), "local"),
        (("create", "a b", "--role", "submit"), "NAME"),
        (("create", "ci", "--role", "submit", "--expires", "soon"), "--expires"),
        (("create", "ci", "--role", "submit", "--expires", "0"), "--expires"),
        (("create", "ci", "--role", "submit", "--expires", "9999999d"), "36500d"),
        (("create", "ci", "--role", "submit", "--expires", "9" * 400), "36500d"),
        (("revoke", "nobody"), "nobody"),
    ],
)
def test_wrong_values_are_named(local: Command, arguments: tuple[str, ...], named: str) -> None:
    local.create("somebody", "--role", "submit")
    assert named in local.refused(*arguments)
    assert len(local.listed()) == 1


def test_a_time_beyond_the_calendar_hides_no_other_token(local: Command, tmp_path: Path) -> None:
    make_token(tmp_path / "data", "eternal", Role.SUBMIT, expires=1e15)
    make_token(tmp_path / "data", "ci", Role.SUBMIT)
    assert {row["name"] for row in local.listed()} == {"eternal", "ci"}
    assert "out of range" in local.good("list").stdout


@pytest.mark.parametrize(
    "url", ["postgresql:ci:hunter2@db/x", "postgresql:///x?PASSWORD=hunter2", "host=db password=hunter2"]
)
def test_an_unreadable_url_is_reported_without_its_password(tmp_path: Path, url: str) -> None:
    done = Command("--data-dir", str(tmp_path / "data"), "--database", url).run("list")
    assert done.exit_code != 0
    assert "--database" in done.output
    assert "hunter2" not in done.output


def test_looking_creates_nothing(local: Command, tmp_path: Path) -> None:
    assert "is not there" in local.refused("list")
    assert "is not there" in local.refused("revoke", "x")
    assert not (tmp_path / "data").exists()


def test_before_the_first_start_the_database_is_made_for_the_server_alone(local: Command, tmp_path: Path) -> None:
    local.create("ci", "--role", "submit")
    data = tmp_path / "data"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert stat.S_IMODE((data / "longshore.db").stat().st_mode) == 0o600


def test_no_token_is_made_that_the_server_could_not_store(
    local: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    owner = (tmp_path / "data").stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    assert "sudo -u" in local.refused("create", "ci", "--role", "submit")
    assert not (tmp_path / "data" / "longshore.db").exists()


def test_a_database_of_something_else_is_left_alone(local: Command, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "longshore.db").write_text("something else, and longer than a header of SQLite's would be" * 9)
    assert "cannot be used: " in local.refused("create", "ci", "--role", "submit")


def test_a_database_before_tokens_wants_to_be_migrated(local: Command, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    dialect = SQLiteDialect(tmp_path / "data" / "longshore.db")
    migrate(dialect.engine, to="0001")
    dialect.engine.dispose()
    for arguments in (("create", "ci", "--role", "submit"), ("list",)):
        assert "longshored migrate" in local.refused(*arguments)


def test_a_database_that_is_away_is_worth_another_try(tmp_path: Path) -> None:
    nowhere = Command("--data-dir", str(tmp_path), "--database", f"postgresql://nobody@/none?host={tmp_path}")
    assert "cannot be used now" in nowhere.refused("create", "ci", "--role", "submit", code=1)


def test_a_file_that_was_not_committed_opens_nothing(
    local: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.create("first", "--role", "submit")
    blocker = sqlite3.connect(tmp_path / "data" / "longshore.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    try:
        done = local.refused("create", "ci", "--role", "submit", "--token-file", str(tmp_path / "t"), code=1)
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()
    assert "cannot be used now" in done
    assert not (tmp_path / "t").exists()


def test_a_file_whose_token_could_not_be_committed_goes(
    local: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.create("first", "--role", "submit")

    def full(_link: Link) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Link, "commit", full)
    said = local.refused("create", "ci", "--role", "submit", "--token-file", str(tmp_path / "t"), code=1)
    assert "disk is full" in said
    assert not (tmp_path / "t").exists()


async def test_a_store_reads_tokens_that_the_command_writes(tmp_path: Path) -> None:
    """The server holds the directory's lock, the database's too; the token command asks for neither."""
    with DataDir(tmp_path / "data") as data:
        data.claim_database(data.database)
        store = SQLiteStore(path=data.database, clock=SystemClock(), policy=Policy(), limits=ConcurrencyLimits())
        await store.open()
        try:
            assert not await store.has_valid_token()
            token = await asyncio.to_thread(make_token, data.path, "ci", Role.SUBMIT)
            assert await store.has_valid_token()
            secret = read_secret(token)
            assert secret is not None
            (row,) = await store.tokens([secret.id, "0" * 16])
            assert (row.name, row.digest, row.refused(time.time())) == ("ci", secret.digest, "")
            await asyncio.to_thread(token_admin(data.path).revoke, "ci")
            assert not await store.has_valid_token()
        finally:
            await store.close()


def sees(address: str, token: str) -> grpc.StatusCode:
    with grpc.insecure_channel(address) as channel:
        opened: Any = channel  # its stubs are typed for grpc.aio
        stub: Any = pb_grpc.TaskServiceStub(opened)
        try:
            stub.ListTasks(pb.ListTasksRequest(), metadata=metadata(token), timeout=10)
        except grpc.RpcError as refused:
            error: Any = refused
            return grpc.StatusCode(error.code())
        return grpc.StatusCode.OK


@pytest.mark.embedded("it says itself what its server runs on")
@pytest.mark.parametrize("sort", ["sqlite", "postgres"])
def test_beside_a_running_server(tmp_path: Path, request: pytest.FixtureRequest, sort: str) -> None:
    if sort == "sqlite":
        _beside(tmp_path, ())
        return
    cluster: Cluster = request.getfixturevalue("postgres")
    with cluster.database() as url:
        _beside(tmp_path, ("--database", url))


def _beside(root: Path, database: tuple[str, ...]) -> None:
    with ServerProcess(root, *database) as server:
        command = Command("--data-dir", str(server.data), *database)
        token = command.create("ci", "--role", "submit")
        assert sees(server.address, token) is grpc.StatusCode.OK
        command.good("revoke", "ci")
        began = time.monotonic()
        eventually(lambda: sees(server.address, token) is grpc.StatusCode.UNAUTHENTICATED)
        assert time.monotonic() - began < 5
