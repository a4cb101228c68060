"""Every promise of a store is kept by each make, and also without the memory that only saves queries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stores.storekinds import StoreKind, new_database


@pytest.fixture(params=["sqlite", "postgresql", "sqlite without memory", "postgresql without memory"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreKind]:
    """The test's database, and what a test must know of its make."""
    with new_database(request.param, tmp_path) as kind:
        yield kind
