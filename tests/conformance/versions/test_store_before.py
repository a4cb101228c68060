"""On PostgreSQL with the schema before its own a store does what it does on its own, but for what the newest migration
brought: tests of other modules once more. (SQLite's only server upgrades it at the start.)"""

# ruff: noqa: F403  collected here too

from __future__ import annotations

from collections.abc import Iterator

import pytest

from longshore.server.store.tables.schema_version import OURS
from tests.conformance.store.order.test_store_order import *
from tests.conformance.store.test_store_janitor import *
from tests.conformance.store.test_store_uploads import *
from tests.support.stores.postgres import shared_cluster
from tests.support.stores.schemas import leave_at
from tests.support.stores.storekinds import PostgresKind, StoreKind


@pytest.fixture
def kind() -> Iterator[StoreKind]:
    with shared_cluster().database() as url:
        found = PostgresKind(url)
        leave_at(found, OURS - 1)
        yield found
