"""No-op tasks beside other queues: how many a second, and how soon one begins.

Three parts on both sides, each in processes of its own on the same cores: a client, the broker or server, one worker
process that is warm. Ours: `longshored` on SQLite, `longshore-worker` with an async handler of the SDK, `AsyncClient`.
Peers: acknowledged after the run, kept in Redis with an append-only file (`always`: synced before each answer, as
durable as ours; `everysec`: a second may be lost), in SQLite with fsync or in PostgreSQL.

`tasks`: durable, from the first submission to the last run. The client submits for a second, so many at once; the
worker works meanwhile. What is run is what was accepted, each task once, its arguments about 200 bytes. `pipelined`:
with `submit_many`, which is there for this; `unary`: a call each, 64 at once. Coroutine workers run 64
at once, threads 8, which is faster for them than 64. Taskiq and Huey submit with the number at once that was best for
them just before, and so do we; the others with 8. The floor (bench/floors/server.py) has our client and our worker, and
submits as ours does. All are there all the time, since idle they cost less than half a
percent of a core; Huey polls, so that its worker stands still (SIGSTOP) while it is not its turn.

`latency`: from a submission's beginning to its handler's first line, on an idle system. One task about every 5 ms, 500
of them a round, each after the one before was accepted. The time begins before the client's call and ends in the
handler, both in CLOCK_MONOTONIC; so it holds the way to the server or broker, the durable acceptance and the way to the
worker. All samples of a round make its median and its 99th percentile. Ours, with a call of `AsyncClient.submit` for
each, the floor and Taskiq, the fastest peer here, are as in `tasks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from bench.loads.tasks import HOWS
from bench.support.figures import Goal, number, quantile
from bench.support.processes import Talker
from bench.support.queue_peers import (
    CELERY,
    DRAMATIQ,
    HUEY,
    PROCRASTINATE,
    SYNCS,
    TASKIQ,
    Peer,
    install,
    opened,
    opened_ours,
    our_client,
)
from bench.support.queues import Site
from bench.support.run import Contender, Row, Run

SECONDS: Final = 1.0
"""Each round submits tasks for so many seconds."""
OTHERS: Final = 0.5
"""The same for peers without a goal."""
PIPELINED: Final = (64, 256, 1000)
UNARY: Final = 64
"""Submissions at once."""
WORK: Final = {"pipelined": (256, 4_000), "unary": (UNARY, 2_000)}
"""Submissions at once and tasks a round, where two versions of ours are compared."""
GOALS: Final = {TASKIQ["always"].name: Goal(at_least=1.5), HUEY.name: Goal(at_least=1.0)}
FLOOR_GOALS: Final = {"pipelined": Goal(at_least=0.85), "unary": Goal(at_least=0.8)}


async def ours(run: Run, stack: AsyncExitStack) -> dict[str, Contender]:
    site = await stack.enter_async_context(opened_ours(run, how=HOWS[0]))
    clients = {HOWS[0]: site.client}
    for how in HOWS[1:]:
        clients[how] = await stack.enter_async_context(our_client(run, site.folder, how))

    def contender(how: str) -> Contender:
        at_once, count = WORK[how]
        return lambda: site.burst(at_once, client=clients[how], count=count)

    return {how: contender(how) for how in HOWS}


async def measure(run: Run) -> None:
    install("redis", "postgresql")
    # A broker that syncs only now and then does not show how slow syncs are.
    syncs = SYNCS if not run.slow else SYNCS[:1]
    peers = [*(each[sync] for sync in syncs for each in (TASKIQ, CELERY, DRAMATIQ)), HUEY, PROCRASTINATE]
    async with AsyncExitStack() as stack:
        sites = {}
        for peer in peers:
            site = await stack.enter_async_context(opened(run, peer))
            await choose(run, site, peer.at_once)
            if site.polls:
                site.worker.stop()
            sites[peer.name] = site
        contenders: dict[str, Contender] = {}
        at_once = 0
        for name in ("ours", "floor"):
            site = await stack.enter_async_context(opened_ours(run, name=name, how=HOWS[0], floor=name == "floor"))
            if not at_once:
                await choose(run, site, PIPELINED)
                at_once = site.at_once
            for how in HOWS:
                client = site.client
                if how != HOWS[0]:
                    client = await stack.enter_async_context(our_client(run, site.folder, how))
                once = partial(burst, run, site, SECONDS, client, at_once if how == HOWS[0] else UNARY)
                contenders[f"{name} {how}"] = once
                await once()
        for name, site in sites.items():
            contenders[name] = partial(burst, run, site, SECONDS if name in GOALS else OTHERS)
        figures = await run.turns(contenders, warm=0)
    compare(run, figures, peers)


async def choose(run: Run, site: Site, candidates: Sequence[int]) -> None:
    """Submit with the number at once that makes it fastest; warms it up besides."""
    rates = dict.fromkeys(candidates, 0.0)
    for _ in range(1 if len(candidates) == 1 else 2):
        for at_once in candidates:
            rates[at_once] = max(rates[at_once], await site.burst(at_once, seconds=OTHERS))
    site.at_once = max(rates, key=lambda at_once: rates[at_once])
    said = ", ".join(f"{number(rate)} tasks/s with {at_once} at once" for at_once, rate in rates.items())
    run.say(f"{run.row}: {site.name}: {said}")


async def burst(
    run: Run, site: Site, seconds: float, client: Talker | None = None, at_once: int | None = None
) -> float:
    """A turn."""
    if site.polls:
        site.worker.resume()
    rate = await site.burst(at_once, client=client, seconds=seconds)
    run.say(f"{run.row}: {site.name}: {site.costs}")
    if site.polls:
        site.worker.stop()
    return rate


def compare(run: Run, figures: dict[str, tuple[float, ...]], peers: Sequence[Peer]) -> None:
    """Both ways of submitting against the floor; the best one against all, the other against those with a goal."""
    for place, how in enumerate(HOWS):
        mine, goal = figures[f"ours {how}"], FLOOR_GOALS[how]
        run.compare(what=how, peer="floor", unit="tasks/s", ours=mine, theirs=figures[f"floor {how}"], goal=goal)
        for peer in sorted(peers, key=lambda peer: peer.name not in GOALS):
            if place == 0 or peer.name in GOALS:
                run.compare(
                    what=how,
                    peer=peer.name,
                    unit="tasks/s",
                    ours=mine,
                    theirs=figures[peer.name],
                    goal=GOALS.get(peer.name) if place == 0 else None,
                )


# Latency --------------------------------------------------------------------------------------------------------------

TASKS: Final = 500
EVERY: Final = 0.005
"""Seconds from one submission to the next."""
PERCENTILES: Final = {"p50": 0.5, "p99": 0.99}
LATENCY_GOALS: Final = {"p50": Goal(at_most=1.25), "p99": Goal(at_most=1.5)}


class Paced:
    """A queue, and every round's percentiles."""

    def __init__(self, run: Run, site: Site) -> None:
        self._run = run
        self._site = site
        self.rounds: dict[str, list[float]] = {name: [] for name in PERCENTILES}

    async def __call__(self) -> float:
        """A turn; answers its median."""
        samples = await self._site.paced(TASKS, EVERY)
        for name, share in PERCENTILES.items():
            self.rounds[name].append(quantile(samples, share))
        self._run.say(f"{self._run.row}: {self._site.name}: {self._site.costs}; at most {samples[-1]:.2f} ms")
        return self.rounds["p50"][-1]


async def ours_paced(run: Run, stack: AsyncExitStack) -> dict[str, Contender]:
    return {"p50": Paced(run, await stack.enter_async_context(opened_ours(run)))}


async def measure_latency(run: Run) -> None:
    install("redis")
    syncs = SYNCS if not run.slow else SYNCS[:1]
    async with AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(opened_ours(run))]
        sites += [await stack.enter_async_context(opened_ours(run, name="floor", floor=True))]
        sites += [await stack.enter_async_context(opened(run, TASKIQ[sync])) for sync in syncs]
        contenders = {site.name: Paced(run, site) for site in sites}
        # The first round is a warm-up.
        await run.turns(contenders, warm=1)
    mine = contenders["ours"]
    for peer in ("floor", *(TASKIQ[sync].name for sync in syncs)):
        for name in PERCENTILES:
            theirs, goal = contenders[peer].rounds[name][1:], LATENCY_GOALS[name] if peer == "floor" else None
            run.compare(what=name, peer=peer, unit="ms", ours=mine.rounds[name][1:], theirs=theirs, goal=goal)


ROWS: Final = (
    Row(name="tasks", unit="tasks/s", measure=measure, ours=ours, rounds=3, durable=True),
    Row(name="latency", unit="ms", measure=measure_latency, ours=ours_paced, rounds=5, durable=True),
)
