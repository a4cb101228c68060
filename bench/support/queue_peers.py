"""The queues that the rows compare: ours, and each peer with its durable setting and its usual one.

All peers live in build/peers (scripts/peers). What they are given is what their documentation recommends to those who
want no task lost: acknowledgement after the run, redelivery, an append-only file, fsync.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.loads.tasks import HOW
from bench.peers.record import AGAIN, BROKER
from bench.support.noop import backends_cpu, operated_cluster
from bench.support.processes import ROOT, Talker, family_cpu
from bench.support.queues import PEERS, Group, Look, Part, Redis, Site, environment_of, submit
from bench.support.run import Run, installed
from tests.support.stores.postgres import Cluster

CONCURRENCY: Final = 64
"""Coroutines that a worker runs at once, ours and Taskiq's."""
THREADS: Final = 8
"""Threads of a worker whose handlers are threads: more of them make those slower, with no-ops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A library with its broker. `sync`: of Redis."""

    library: str
    sync: str = ""
    at_once: tuple[int, ...] = (8,)
    """Submissions at once that a row may try, to take the best."""

    @property
    def name(self) -> str:
        if self.library == "Huey":
            return "Huey on SQLite fsync"
        return f"{self.library} on {'PostgreSQL' if self.library in SCHEMA else f'Redis {self.sync}'}"

    @property
    def key(self) -> str:
        """Short: a socket's path may have 107 bytes."""
        return f"{self.library.lower()}-{self.sync or 'own'}"

    @property
    def module(self) -> str:
        return f"bench.peers.on_{self.library.lower()}"

    def worker(self, coroutines: int) -> list[str]:
        """Return the command of the peer's worker."""
        module, threads = self.module, str(THREADS)
        return {
            "Celery": [
                *("celery", "-A", module, "worker", "-P", "threads", "-c", threads, "-l", "ERROR"),
                *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            ],
            "Dramatiq": ["dramatiq", module, "-p", "1", "-t", threads, "--skip-logging"],
            # Its pauses between looks at an empty queue are 0.1 s to 10 s by default, which a burst would begin with.
            "Huey": ["huey_consumer", f"{module}.huey", "-w", threads, "-q", "-f", "-d", "0.005", "-m", "0.01"],
            "Awa": ["python", "-m", module, str(coroutines)],
            "PgQueuer": ["python", "-m", module, str(coroutines)],
            "Procrastinate": ["procrastinate", "-a", f"{module}.app", "worker", "-c", threads, "-q", "bench"],
            "Taskiq": [
                *("taskiq", "worker", f"{module}:broker", "--workers", "1", "--max-async-tasks", str(coroutines)),
                *("--log-level", "ERROR"),
            ],
        }[self.library]


SCHEMA: Final = {
    "Awa": ("python", "-m", "awa", "--database-url", "{url}", "migrate"),
    "PgQueuer": ("pgq", "--pg-dsn", "{url}", "install", "--durability", "durable"),
    "Procrastinate": ("procrastinate", "-a", "bench.peers.on_procrastinate.app", "schema", "--apply"),
}
"""The peers on PostgreSQL, each with the command that makes its tables."""

SYNCS: Final = ("always", "everysec")
TASKIQ: Final = {sync: Peer(library="Taskiq", sync=sync, at_once=(8, 64, 256, 1000)) for sync in SYNCS}
CELERY: Final = {sync: Peer(library="Celery", sync=sync) for sync in SYNCS}
DRAMATIQ: Final = {sync: Peer(library="Dramatiq", sync=sync) for sync in SYNCS}
HUEY: Final = Peer(library="Huey", at_once=(1, 8, 64))
PROCRASTINATE: Final = Peer(library="Procrastinate", at_once=(8,))
PGQUEUER: Final = Peer(library="PgQueuer", at_once=(8, 64))
AWA: Final = Peer(library="Awa", at_once=(8, 64))


def install(*packages: str) -> None:
    """See to it that the peers are here. Raises CalledProcessError."""
    installed(*(packages or ("redis",)))
    subprocess.run([ROOT / "scripts" / "peers"], check=True)


class _Database:
    """PostgreSQL as a part that is killed and started."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def start(self) -> None:
        self._cluster.start()

    def kill(self) -> None:
        self._cluster.kill()


@asynccontextmanager
async def opened(
    run: Run, peer: Peer, *, again: int = 0, coroutines: int = CONCURRENCY, started: bool = True
) -> AsyncIterator[Site]:
    """A peer, set up and warm. `again`: seconds after which a lost worker's tasks are given to another.

    With `started` false its worker is not there, and nothing is warm. Raises AssertionError if it does not work.
    """
    run.folder.chmod(0o711)  # PostgreSQL runs as somebody else, and loads the shim from there.
    folder = run.folder / peer.key
    folder.mkdir()
    slow = run.environment()
    own = environment_of(folder) | ({AGAIN: str(again)} if again else {})
    async with AsyncExitStack() as stack:
        broker: Part | None = None
        parts: dict[str, Look] = {}
        if peer.library == "Huey":
            own |= {BROKER: str(folder / "huey.db"), **slow}
        elif peer.library in SCHEMA:
            cluster = stack.enter_context(operated_cluster(slow))
            broker, parts["database"] = _Database(cluster), lambda: backends_cpu(cluster)
            own[BROKER] = cluster.url("postgres")
            if peer.library == "Awa":
                # The one in the parameters goes first there, but there must be one in front too.
                own[BROKER] = own[BROKER].replace("@/", "@localhost/")
            await _run([word.format(url=own[BROKER]) for word in SCHEMA[peer.library]], own)
        else:
            redis = stack.enter_context(Redis(folder, peer.sync, slow))
            broker, parts["broker"] = redis, lambda: family_cpu(redis.pid)
            scheme = "redis+socket" if peer.library == "Celery" else "unix"
            own[BROKER] = f"{scheme}://{redis.socket}"
        command = peer.worker(coroutines)
        worker = Group(name="worker", root=folder, argv=[str(PEERS / command[0]), *command[1:]], environment=own)
        parts["worker"] = lambda: family_cpu(worker.pid)
        client = Talker(
            *(str(PEERS / "python"), "-m", "bench.peers.produce", peer.module),
            environment=own,
            log=folder / "client.log",
        )
        await stack.enter_async_context(client)
        site = Site(peer.name, folder, worker, client, parts, broker, max(peer.at_once), polls=peer.library == "Huey")
        if started:
            stack.enter_context(worker)
            await site.ready()
        else:
            stack.push(worker.__exit__)
        yield site


async def _run(command: list[str], environment: Mapping[str, str]) -> None:
    argv = [str(PEERS / command[0]), *command[1:]]
    done = await asyncio.to_thread(
        subprocess.run, argv, cwd=ROOT, env=dict(environment), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


@asynccontextmanager
async def opened_ours(
    run: Run,
    *,
    name: str = "ours",
    concurrency: int = CONCURRENCY,
    how: str = "unary",
    floor: bool = False,
    options: Sequence[str] = (),
    ready: bool = True,
) -> AsyncIterator[Site]:
    """`longshored` on SQLite, `longshore-worker` with a handler of the SDK, and a client; set up and warm.

    `floor`: the floor instead of `longshored`. `options`: of `longshored`. `ready`: wait for a first task. `how`: see
    bench/loads/tasks.py.
    """
    folder = run.folder / name
    folder.mkdir()
    server = run.floor(folder) if floor else run.server(folder, *options)
    of_worker = ("--handlers", "bench.loads.tasks:registry", "--concurrency", str(concurrency))
    worker = run.worker(server, *of_worker, environment=environment_of(folder))
    async with AsyncExitStack() as stack:
        stack.enter_context(server)
        stack.enter_context(worker)
        client = await stack.enter_async_context(our_client(run, folder, how))
        parts: dict[str, Look] = {"server": lambda: family_cpu(server.pid), "worker": lambda: family_cpu(worker.pid)}
        site = Site("floor" if floor else "ours", folder, worker, client, parts, server)
        if ready:
            await site.ready()
        yield site


def our_client(run: Run, folder: Path, how: str) -> Talker:
    """A client process for the server in that folder."""
    own = environment_of(folder) | {
        HOW: how,
        "LONGSHORE_SERVER": f"unix:{folder / 's.sock'}",
        "LONGSHORE_TOKEN_FILE": str(folder / "data" / "token"),
    }
    return run.client("bench.peers.produce", "bench.loads.tasks", environment=own, log=folder / f"client-{how}.log")


@asynccontextmanager
async def celery_enqueues(
    run: Run, *, sync: str = "always", at_once: int = 8, size: int = 0
) -> AsyncIterator[Callable[[float], Awaitable[float]]]:
    """A function that enqueues Celery tasks for so many seconds and answers how many a second were accepted.

    No worker is there to run them. `sync`: of Redis. `at_once`: threads of the client process. `size`: bytes of
    arguments [200].
    """
    await asyncio.to_thread(install)
    async with opened(run, CELERY[sync], started=False) as site:

        async def rate(seconds: float) -> float:
            count, took = await submit(site.client, at_once=at_once, seconds=seconds, size=size)
            return count / took

        # The first one opens its connections.
        await rate(0.2)
        yield rate
