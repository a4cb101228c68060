"""Several servers on one PostgreSQL, with one spool or each with its own, and workers on any of them."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg

from longshore.client import Client
from longshore.server.model.events import Policy
from longshore.server.model.values import State
from longshore.server.store.postgres.dialect import PostgresStore
from longshore.server.store.tables.codec import decode_status
from longshore.server.store.transaction.limits import ConcurrencyLimits
from tests.support.network.proxy_thread import ProxyThread
from tests.support.servers.processes import ServerProcess, WorkerProcess
from tests.support.servers.stage import Stage
from tests.support.stores import s3
from tests.support.stores.postgres import Cluster

PATIENCE: Final = 60.0
"""Seconds for which a client of these tests goes on trying."""
_TREE: Final = Path(__file__).resolve().parents[3]


class FleetSpool(Protocol):
    """A fleet's spool has its payloads."""

    @property
    def options(self) -> Sequence[str]:
        """Return the options that each server is started with."""
        ...

    @property
    def environment(self) -> Mapping[str, str]: ...

    def leftovers(self) -> Sequence[object]:
        """List the content of the spool: nothing, when every task has succeeded."""
        ...


@dataclass(frozen=True, slots=True)
class FolderSpool:
    """A directory that all servers reach."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def options(self) -> Sequence[str]:
        return ("--spool", f"file://{self.folder}")

    def leftovers(self) -> Sequence[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file() and path.name != "identity"]


@dataclass(frozen=True, slots=True)
class FleetObjectSpool:
    """A place in an object store."""

    url: str
    environment: Mapping[str, str] = field(default_factory=lambda: s3.ENVIRONMENT)

    @property
    def options(self) -> Sequence[str]:
        return ("--spool", self.url)

    def leftovers(self) -> Sequence[str]:
        return s3.leftovers(self.url)


@dataclass(frozen=True, slots=True)
class OwnSpools:
    """Each server has a directory of its own, in its data directory. The fleet looks into them."""

    options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def leftovers(self) -> Sequence[object]:
        return ()


class ServerFleet:
    """Servers `s0`, `s1`, … on one database, with one token. Each has a stage; instances and target are common."""

    def __init__(self, root: Path, url: str, spool: FleetSpool, servers: Sequence[ServerProcess]) -> None:
        self.root, self.url, self.spool, self.servers = root, url, spool, servers
        self.instances = root / "instances"
        self.stages: list[Stage] = []

    def __getitem__(self, number: int) -> Stage:
        """Return the stage that sees and acts through this server."""
        return self.stages[number]

    @property
    def target(self) -> str:
        return f"default=directory:{self.instances}"

    @property
    def addresses(self) -> str:
        """Return the addresses of all servers, for programs that take several."""
        return ",".join(server.address for server in self.servers)

    def client(self, *numbers: int, **options: Any) -> Client:
        """A client of these servers, or of all."""
        chosen = [self.servers[number] for number in numbers] or self.servers
        address = ",".join(server.address for server in chosen)
        return Client(server=address, token_file=chosen[0].token_file, **({"patience": PATIENCE} | options))

    def worker(self, *options: str, at: Sequence[int] = (), name: str = "worker", **more: Any) -> WorkerProcess:
        """A worker that knows these servers, or all of them. Workers of one fleet need different names."""
        chosen = [self.servers[number] for number in at] or self.servers
        more = {"targets": [self.target], "address": ",".join(server.address for server in chosen)} | more
        return WorkerProcess(chosen[0], *options, name=name, **more)

    def link(self, number: int) -> ProxyThread:
        """A proxy before that server, which can be cut: give its address to a worker or a client."""
        return ProxyThread(unix=self.servers[number].socket)

    def handlers(self, *options: str, **more: Any) -> WorkerProcess:
        """A worker with the kinds of tests/support/workers/waiting_handlers.py besides."""
        own = {"PYTHONPATH": os.pathsep.join([str(_TREE), os.environ.get("PYTHONPATH", "")])}
        return self.worker(
            "--handlers", "tests.support.workers.waiting_handlers:registry", *options, environment=own, **more
        )

    def any(self, rng: random.Random) -> Stage:
        """A server drawn by lot."""
        return rng.choice(self.stages)

    def make_instances(self, *names: str, folder: str = "srv") -> None:
        for name in names:
            (self.instances / name / folder).mkdir(parents=True, exist_ok=True)

    def history(self, task_id: str) -> list[State]:
        """The state after each revision of a task, as the database has them."""
        found = self.rows(
            "SELECT events.revision, events.status FROM events JOIN tasks USING (seq) WHERE tasks.id = %s ORDER BY 1",
            task_id,
        )
        assert [revision for revision, _ in found] == list(range(1, len(found) + 1)), "revisions without gaps"
        return [decode_status(status).state for _, status in found]

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Ask the database, past every server."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(sql.encode(), parameters).fetchall()

    def leftovers(self) -> list[object]:
        """Payloads and parts of uploads that still lie in a spool: none, when every task has succeeded."""
        own = [path for server in self.servers for path in server.leftovers()]
        return [*own, *self.spool.leftovers()]

    def discrepancies(self) -> list[str]:
        """Sums that the database keeps and that differ from a recount; none while it is whole."""

        async def verify() -> list[str]:
            store = PostgresStore(url=self.url, policy=Policy(), limits=ConcurrencyLimits())
            await store.open()
            try:
                return list(await store.verify_counters())
            finally:
                await store.close()

        return asyncio.run(verify())


def server_on(
    root: Path, name: str, *options: str, url: str, spool: FleetSpool, token: str, environment: Mapping[str, str]
) -> ServerProcess:
    """One more server for a database; not started."""
    server = ServerProcess(
        root / name,
        "--database",
        url,
        *spool.options,
        *options,
        name=name,
        environment={**spool.environment, **environment},
    )
    server.data.mkdir(parents=True, mode=0o700)
    server.token_file.touch(mode=0o600)
    server.token_file.write_text(token)
    return server


@contextmanager
def fleet_of(
    root: Path,
    cluster: Cluster,
    *options: str,
    servers: int = 2,
    spool: FleetSpool | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[ServerFleet]:
    """That many servers with these options on a new database; without a `spool` they share a directory."""
    spool = spool or FolderSpool(root / "spool")
    token = secrets.token_urlsafe(32)
    with cluster.database() as url, ExitStack() as stack:
        made = [
            server_on(root, f"s{number}", *options, url=url, spool=spool, token=token, environment=environment or {})
            for number in range(servers)
        ]
        fleet = ServerFleet(root, url, spool, made)
        for server in made:
            stack.push(server.__exit__)
        with ThreadPoolExecutor(len(made)) as pool:
            list(pool.map(ServerProcess.start, made))
        for server in made:
            client = stack.enter_context(Client(server=server.address, token_file=server.token_file, patience=PATIENCE))
            fleet.stages.append(Stage(server.root, server, client, instances=fleet.instances))
        yield fleet
