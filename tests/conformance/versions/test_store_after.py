"""On the schema after its own a store does what it does on its own: tests of another module once more."""

# ruff: noqa: F403  collected here too

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.server.store.migrations.run import migrate
from longshore.server.store.tables.schema_version import OURS
from tests.conformance.store.order.test_store_order import *
from tests.support.stores.postgres import shared_cluster
from tests.support.stores.schemas import leave_at
from tests.support.stores.storekinds import PostgresKind, SQLiteKind, StoreKind


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreKind]:
    if request.param == "sqlite":
        file = SQLiteKind(tmp_path / "longshore.sqlite3")
        migrate(file.dialect().engine)
        leave_at(file, OURS + 1)
        yield file
        return
    with shared_cluster().database() as url:
        shared = PostgresKind(url)
        leave_at(shared, OURS + 1)
        yield shared
