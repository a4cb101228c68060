"""On what the servers of end-to-end tests run: files of their own, or PostgreSQL and an object store.

A test whose module starts servers (it has ServerProcess or a stage) runs on the first, and on the second too if it is
marked `cluster("P8")`, with the promises that it shows. Others are asked for with `--backends both` (every one that
can) or `--backends cluster`. `embedded("why")` marks what can run only on the first. Tests of LXD are about the target,
and those of fleets say themselves where their servers keep things.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import obstore
import psycopg
import pytest

from tests.support.stores import s3
from tests.support.stores.postgres import Cluster, shared_cluster

EMBEDDED: Final = "embedded"
CLUSTER: Final = "cluster"
_STARTERS: Final = ("ServerProcess", "Stage", "staged")


@dataclass(frozen=True, slots=True)
class BackendPlace:
    """A place has one server's database and spool."""

    options: Sequence[str]
    environment: Mapping[str, str]
    leftovers: Callable[[], Sequence[Any]]
    """The function lists the spool's content but the identity."""
    content: Callable[[], bytes]
    """The bytes of all that, one after the other."""


class Backend(Protocol):
    """Makes a place for each server."""

    def place(self, owner: object, data: Path) -> BackendPlace:
        """Make the place of a new server with this data directory. It is kept as long as `owner` lives."""
        ...


@dataclass(frozen=True, slots=True)
class Embedded:
    """SQLite and a directory, both in the data directory."""

    def place(self, owner: object, data: Path) -> BackendPlace:
        del owner

        def leftovers() -> Sequence[Path]:
            return [path for path in (data / "spool").rglob("*") if path.is_file() and path.name != "identity"]

        return BackendPlace((), {}, leftovers, lambda: b"".join(path.read_bytes() for path in sorted(leftovers())))


@dataclass(frozen=True, slots=True)
class OnCluster:
    """A database and a place in an object store for each server."""

    postgres: Cluster
    store: s3.ObjectStore
    environment: Mapping[str, str] = field(default_factory=lambda: s3.ENVIRONMENT)

    def place(self, owner: object, data: Path) -> BackendPlace:
        del data
        stack = ExitStack()
        database, spool = stack.enter_context(self.postgres.database()), self.store.fresh_url()
        # A test may stop its server and start it again as often as it likes.
        weakref.finalize(owner, _leave, stack).atexit = False

        def content() -> bytes:
            store = s3.client(spool)
            return b"".join(bytes(obstore.get(store, name).bytes()) for name in s3.leftovers(spool))

        options = ("--database", database, "--spool", spool)
        return BackendPlace(options, self.environment, lambda: s3.leftovers(spool), content)


def _leave(stack: ExitStack) -> None:
    with suppress(psycopg.OperationalError):  # the session is over, and its PostgreSQL with everything in it
        stack.close()


_current: Backend = Embedded()


def current() -> Backend:
    """The backend of the test at hand."""
    return _current


def named(own: Sequence[str]) -> bool:
    """These options of a server say themselves where it keeps its things."""
    return any(word.partition("=")[0] in ("--database", "--spool") for word in own)


@pytest.fixture(scope="session", autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The backend that servers get. A fixture of a wider scope than a test's that starts one must ask for this one."""
    global _current
    name = getattr(request, "param", EMBEDDED)
    if name == CLUSTER:
        _current = OnCluster(shared_cluster(), request.getfixturevalue("object_store"))
    yield name
    _current = Embedded()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backends",
        choices=["chosen", EMBEDDED, CLUSTER, "both"],
        default="chosen",
        help="on what end-to-end tests run: chosen (all embedded, those marked `cluster` also there), or as said",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    definition = metafunc.definition
    if not any(hasattr(metafunc.module, name) for name in _STARTERS) or hasattr(metafunc.module, "fleet_of"):
        return
    if definition.get_closest_marker("lxd") is not None:
        return
    wanted = metafunc.config.getoption("--backends")
    able = definition.get_closest_marker("embedded") is None
    both = able and (wanted == "both" or (wanted == "chosen" and definition.get_closest_marker("cluster") is not None))
    names = [EMBEDDED, CLUSTER] if both else [CLUSTER] if able and wanted == CLUSTER else [EMBEDDED]
    metafunc.parametrize("backend", names, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--backends cluster` only what runs there is run."""
    if config.getoption("--backends") != CLUSTER:
        return
    out = [item for item in items if CLUSTER not in _parameters(item).values()]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if CLUSTER in _parameters(item).values()]


def _parameters(item: pytest.Item) -> Mapping[str, Any]:
    spec = getattr(item, "callspec", None)
    found: Mapping[str, Any] = {} if spec is None else {"backend": spec.params.get("backend")}
    return found
