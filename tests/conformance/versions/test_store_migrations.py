"""Opening a data directory or a database of whatever version."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from longshore.server.store import commit_log
from longshore.server.store.errors import SchemaMismatch
from longshore.server.store.migrations.run import migrate, prepare
from longshore.server.store.tables.schema import REVISION, metadata, sequence, tasks
from longshore.server.store.tables.schema_version import OURS, check
from tests.conformance.conftest import OpenStore
from tests.support.stores.postgres import shared_cluster
from tests.support.stores.schemas import leave_at
from tests.support.stores.store import ManualClock, StoreFleet
from tests.support.stores.storekinds import PostgresKind, SQLiteKind, StoreKind, normal

NEWEST = tasks.c.exclusive
"""The column that the newest migration brought."""


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], StoreKind]]:
    """Makes databases with nothing in them."""
    with ExitStack() as stack:

        def make(name: str) -> StoreKind:
            if request.param == "sqlite":
                return SQLiteKind(tmp_path / name)
            return PostgresKind(stack.enter_context(shared_cluster().empty_database()))

        yield make


def test_the_migrations_make_the_schema(new_database: Callable[[str], StoreKind]) -> None:
    migrated, made = new_database("migrated"), new_database("made")
    migrate(migrated.dialect().engine)
    engine = made.dialect().engine
    metadata.create_all(engine)
    if engine.dialect.name == "postgresql":
        commit_log.metadata.create_all(engine)
    assert migrated.described() == made.described()
    with migrated.dialect().engine.connect() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all() == [REVISION]
        assert sorted(connection.execute(sa.select(sequence.c.name)).scalars()) == ["probe", "tasks"]


def test_a_new_data_directory_has_what_the_migrations_make(tmp_path: Path) -> None:
    new, migrated = SQLiteKind(tmp_path / "new"), SQLiteKind(tmp_path / "migrated")
    assert prepare(new.dialect()) == OURS
    migrate(migrated.dialect().engine)
    assert new.described() == migrated.described()
    for rows in ("SELECT * FROM sequence ORDER BY name", "SELECT * FROM alembic_version"):
        assert _rows(new, rows) == _rows(migrated, rows) != []
    tables = "SELECT sql FROM sqlite_master WHERE name = 'alembic_version'"
    assert normal(_rows(new, tables)[0][0]) == normal(_rows(migrated, tables)[0][0])


def test_a_start_that_fails_while_it_makes_the_tables_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_more: object) -> None:
        raise RuntimeError("power cut")

    kind = SQLiteKind(tmp_path / "database")
    monkeypatch.setattr(sequence, "insert", broken)
    with pytest.raises(RuntimeError, match="power cut"):
        prepare(kind.dialect())
    assert kind.described() == []
    monkeypatch.undo()
    assert prepare(kind.dialect()) == OURS


def test_a_new_data_directory_needs_no_alembic(tmp_path: Path) -> None:
    code = (
        "import sys; from longshore.server.store.migrations.run import prepare; "
        "from longshore.server.store.sqlite.dialect import SQLiteDialect; from pathlib import Path; "
        "prepare(SQLiteDialect(Path(sys.argv[1]))); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "database")], capture_output=True, check=True)
    assert done.stdout == b"False\n"


def _rows(kind: SQLiteKind, sql: str) -> list[Any]:
    with closing(sqlite3.connect(kind.path)) as connection:
        return connection.execute(sql).fetchall()


def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    kind = SQLiteKind(tmp_path / "database")
    migrate(kind.dialect().engine)
    before = kind.path.read_bytes()
    migrate(kind.dialect().engine)
    assert kind.path.read_bytes() == before


async def test_a_newer_schema_is_refused_and_left_alone(
    open_store: OpenStore, clock: ManualClock, kind: StoreKind
) -> None:
    async with open_store(clock) as store:
        (task,) = await StoreFleet(store, clock).submit()
    kind.execute("UPDATE alembic_version SET version_num = '9999'")
    before = kind.described()
    with pytest.raises(SchemaMismatch, match=r"9999.*newer version"):
        async with open_store(clock):
            pass
    assert kind.described() == before
    kind.execute(f"UPDATE alembic_version SET version_num = '{REVISION}'")
    async with open_store(clock) as store:
        assert await store.task(task.id) == task


def test_a_migration_that_fails_leaves_nothing(
    new_database: Callable[[str], StoreKind], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_more: object) -> None:
        raise RuntimeError("power cut")

    kind = new_database("database")
    before = kind.described()
    monkeypatch.setattr("alembic.op.bulk_insert", broken)
    with pytest.raises(RuntimeError, match="power cut"):
        migrate(kind.dialect().engine)
    assert kind.described() == before
    monkeypatch.undo()
    migrate(kind.dialect().engine)
    assert kind.described() != before


# The schemas before and after -----------------------------------------------------------------------------------------


def test_the_schema_before_equals_its_migration(new_database: Callable[[str], StoreKind]) -> None:
    made, left = new_database("made"), new_database("left")
    migrate(made.dialect().engine, to=f"{OURS - 1:04}")
    migrate(left.dialect().engine)
    leave_at(left, OURS - 1)
    assert made.described() == left.described()


async def test_a_shared_database_on_the_schema_before_stays_unchanged_until_migrated(
    new_database: Callable[[str], StoreKind], clock: ManualClock
) -> None:
    kind = new_database("database")
    migrate(kind.dialect().engine, to=f"{OURS - 1:04}")
    async with kind.opened(clock) as store:
        if not kind.dialect().shared:
            assert (store.schema.revision, store.schema.lacks(NEWEST)) == (OURS, False)
            return
        assert (store.schema.revision, store.schema.lacks(NEWEST)) == (OURS - 1, True)
        await store.refresh_schema()
        assert store.schema.revision == OURS - 1
        assert migrate(kind.dialect().engine) == (OURS - 1, OURS)
        await store.refresh_schema()
        assert (store.schema.revision, store.schema.lacks(NEWEST)) == (OURS, False)


async def test_a_running_store_notices_a_schema_that_it_cannot_use(kind: StoreKind, clock: ManualClock) -> None:
    async with kind.opened(clock) as store:
        kind.execute(f"UPDATE alembic_version SET version_num = '{OURS + 1:04}'")
        await store.refresh_schema()
        assert store.schema.revision == OURS + 1
        kind.execute(f"UPDATE alembic_version SET version_num = '{OURS + 2:04}'")
        with pytest.raises(SchemaMismatch, match="newer version"):
            await store.refresh_schema()


@pytest.mark.parametrize(
    ("revision", "remedy"),
    [(f"{OURS + 2:04}", "newer version"), ("8765", "newer version"), ("zwei", "database of its own")],
)
async def test_a_schema_that_this_version_does_not_know_is_refused(
    new_database: Callable[[str], StoreKind], clock: ManualClock, revision: str, remedy: str
) -> None:
    kind = new_database("database")
    migrate(kind.dialect().engine)
    kind.execute(f"UPDATE alembic_version SET version_num = '{revision}'")
    with pytest.raises(SchemaMismatch, match=f"{revision}.*{remedy}"):
        async with kind.opened(clock):
            pass
    with pytest.raises(SchemaMismatch, match=f"{revision}.*{remedy}"):
        migrate(kind.dialect().engine)


def test_a_schema_two_versions_old_is_refused() -> None:
    check(OURS - 1)
    check(OURS + 1)
    with pytest.raises(SchemaMismatch, match="longshored migrate"):
        check(OURS - 2)
