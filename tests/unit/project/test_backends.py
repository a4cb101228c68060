"""End-to-end tests on PostgreSQL and an object store: every promise is shown there too, and they do run there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests.support.stores import backends
from tests.support.stores.postgres import Cluster
from tests.support.stores.s3 import ObjectStore

_MARK: Final = re.compile(r"pytest\.mark\.cluster\(([^)]+)\)")


def test_every_promise_is_shown_on_the_cluster_too(tree: Path) -> None:
    shown = {
        promise.strip(' "')
        for path in (tree / "tests").rglob("test_*.py")
        for promises in _MARK.findall(path.read_text())
        for promise in promises.split(",")
    }
    assert shown == {f"P{number}" for number in range(1, 15)}


def test_a_server_gets_a_database_and_a_spool_of_the_backend(
    tmp_path: Path, postgres: Cluster, object_store: ObjectStore
) -> None:
    owner = type("Owner", (), {})()
    place = backends.OnCluster(postgres, object_store).place(owner, tmp_path)
    options = dict(zip(place.options[::2], place.options[1::2], strict=True))
    assert options["--database"].startswith("postgresql://")
    assert options["--spool"].startswith("s3://")
    assert place.environment["AWS_ACCESS_KEY_ID"]
    assert place.leftovers() == []
    databases = len(postgres.execute("SELECT 1 FROM pg_database"))
    del owner
    assert len(postgres.execute("SELECT 1 FROM pg_database")) == databases - 1, "dropped with its server"
