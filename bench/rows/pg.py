"""No-op tasks a second on PostgreSQL, durable, from submission to run: one server, three, and other queues.

Every queue has a PostgreSQL of its own with the same settings, synced with each commit, and is reached through unix
sockets. Ours is as in the row `tasks`: `longshored`, `longshore-worker` with an async handler of the SDK, `AsyncClient`
with `submit_many`. Three servers share one database; each has a worker and a client of its own, and any worker runs any
client's tasks. Counted is from the first submission to the last run. The peers have their durable setting, one worker
and one client; Procrastinate submits 8 at once, PgQueuer and Awa with the number that was best just before.

All are there all the time. Idle, ours asks the database a few times a second, and PgQueuer and Awa poll it as often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

from bench.rows.tasks import choose
from bench.support.figures import Goal
from bench.support.noop import backends_cpu, operated_cluster
from bench.support.queue_peers import AWA, PGQUEUER, PROCRASTINATE, install, opened, opened_ours
from bench.support.queues import Site, submit, until
from bench.support.run import Contender, Row, Run
from tests.support.stores.postgres import Cluster

TASKS: Final = 1_500
"""In a round."""
AT_ONCE: Final = 192
"""Submissions at once, over all servers."""
SECONDS: Final = 1.0
"""The peers submit for so many seconds in each round."""
PEERS: Final = (PROCRASTINATE, PGQUEUER, AWA)


class Servers:
    """Servers on one database, each with a worker and a client."""

    def __init__(self, run: Run, cluster: Cluster, sites: Sequence[Site]) -> None:
        self._run, self._cluster, self._sites = run, cluster, sites

    @classmethod
    async def opened(cls, run: Run, stack: AsyncExitStack, count: int) -> Servers:
        """Returns when a task has gone all the way."""
        cluster = stack.enter_context(operated_cluster(run.environment()))
        # An empty one: the first server makes the tables of its version.
        url, sites = stack.enter_context(cluster.empty_database()), []
        for number in range(count):
            options = ("--database", url, *(("--spool", f"file://{run.folder}/spool-{count}") if count > 1 else ()))
            site = opened_ours(run, name=f"{count}-{number}", how="pipelined", options=options, ready=False)
            sites.append(await stack.enter_async_context(site))
        servers = cls(run, cluster, sites)
        await servers.burst(count)
        return servers

    async def once(self) -> float:
        """A turn."""
        before = backends_cpu(self._cluster), self._run.cpu()
        rate = await self.burst(TASKS)
        database, ours = backends_cpu(self._cluster) - before[0], self._run.cpu() - before[1]
        self._run.say(
            f"{self._run.row}: {len(self._sites)} servers: µs of CPU a task: database {1e6 * database / TASKS:.0f}, "
            f"servers, workers and clients {1e6 * ours / TASKS:.0f}"
        )
        return rate

    async def burst(self, tasks: int) -> float:
        """Tasks a second."""
        share = len(self._sites)
        before = [site.runs for site in self._sites]
        sending = [submit(site.client, at_once=AT_ONCE // share, count=tasks // share) for site in self._sites]
        await asyncio.gather(*sending)
        goal = sum(before) + tasks // share * share
        if not await until(lambda: sum(site.runs for site in self._sites) >= goal):
            raise AssertionError(f"{share} servers: not all have run:\n{self._sites[0].worker.log()[-3000:]}")
        runs = [each for site, past in zip(self._sites, before, strict=True) for each in site.ran(past)]
        return len(runs) / ((max(each.at for each in runs) - min(each.sent for each in runs)) / 1e9)


async def ours(run: Run, stack: AsyncExitStack) -> dict[str, Contender]:
    await asyncio.to_thread(run.folder.chmod, 0o711)  # PostgreSQL runs as somebody else, and loads the shim from there.
    return {
        "one server": (await Servers.opened(run, stack, 1)).once,
        "three servers": (await Servers.opened(run, stack, 3)).once,
    }


async def measure(run: Run) -> None:
    install("postgresql")
    async with AsyncExitStack() as stack:
        contenders = await ours(run, stack)
        for peer in PEERS:
            site = await stack.enter_async_context(opened(run, peer))
            await choose(run, site, peer.at_once)
            contenders[peer.name] = _bursts(site)
        figures = await run.turns(contenders)
    one, three = figures["one server"], figures["three servers"]
    unit, least = "tasks/s", Goal(at_least=1.0)
    best = max((PGQUEUER.name, AWA.name), key=lambda name: sum(figures[name]))
    for peer in PEERS:
        goal = Goal(at_least=3.0) if peer is PROCRASTINATE else least if peer.name == best else None
        run.compare(what="one server", peer=peer.name, unit=unit, ours=one, theirs=figures[peer.name], goal=goal)
    run.compare(what="three servers", peer="one server", unit=unit, ours=three, theirs=one, goal=least)


def _bursts(site: Site) -> Contender:
    return lambda: site.burst(seconds=SECONDS)


ROWS: Final = (Row(name="pg", unit="tasks/s", measure=measure, ours=ours, rounds=3),)
