"""Opening a data directory of whatever version."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from longshore.server.store.errors import SchemaMismatch
from longshore.server.store.migrate import migrate
from longshore.server.store.schema import REVISION, metadata, sequence
from longshore.server.store.sqlite import SQLiteDialect
from tests.conformance.conftest import OpenStore
from tests.support.store import Fleet, ManualClock


def described(path: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name <> ?", ("alembic_version",)
        ).fetchall()
    connection.close()
    return sorted((name, normal(sql)) for name, sql in rows)


def normal(sql: str) -> str:
    """A statement without its line breaks and the order of its parts."""
    return " ".join(sorted(line.strip().removesuffix(",") for line in sql.splitlines()))


def test_the_migrations_make_the_schema(tmp_path: Path) -> None:
    migrated, made = SQLiteDialect(tmp_path / "migrated"), SQLiteDialect(tmp_path / "made")
    migrate(migrated.engine)
    metadata.create_all(made.engine)
    assert described(tmp_path / "migrated") == described(tmp_path / "made")
    with migrated.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all() == [REVISION]
        assert sorted(connection.execute(sa.select(sequence.c.name)).scalars()) == ["probe", "tasks"]


def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    dialect = SQLiteDialect(tmp_path / "database")
    migrate(dialect.engine)
    before = (tmp_path / "database").read_bytes()
    migrate(dialect.engine)
    assert (tmp_path / "database").read_bytes() == before


async def test_a_newer_schema_is_refused_and_left_alone(open_store: OpenStore, clock: ManualClock) -> None:
    async with open_store(clock) as store:
        (task,) = await Fleet(store, clock).submit()
        path = store.path
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = described(path)
    with pytest.raises(SchemaMismatch, match=r"9999.*newer version"):
        async with open_store(clock):
            pass
    assert described(path) == before
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (REVISION,))
    connection.close()
    async with open_store(clock) as store:
        assert await store.task(task.id) == task


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object, **_more: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr("alembic.op.bulk_insert", broken)
    dialect = SQLiteDialect(tmp_path / "database")
    with pytest.raises(RuntimeError, match="power cut"):
        migrate(dialect.engine)
    assert described(tmp_path / "database") == []
    monkeypatch.undo()
    migrate(dialect.engine)
    assert described(tmp_path / "database")


def test_durability_is_full(tmp_path: Path) -> None:
    dialect = SQLiteDialect(tmp_path / "database")
    with dialect.engine.connect() as connection:

        def ask(name: str) -> object:
            return connection.exec_driver_sql(f"PRAGMA {name}").scalar()

        assert ask("journal_mode") == "wal"
        assert ask("synchronous") == 2
        assert ask("foreign_keys") == 1
