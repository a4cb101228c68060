"""No-op tasks a second, durable, from submission to run, beside other queues.

    make bench ROW=tasks       [SLOWSYNC_US=1000]

Three parts on both sides, each in processes of its own on the same cores: a client, the broker or server, one worker
process that is warm. The client submits for a second, so many at once; the worker works meanwhile. Counted is from the
first submission to the last run; what is run is what was accepted, each task once, its arguments about 200 bytes.

Ours: `longshored` on SQLite, `longshore-worker` with an async handler of the SDK, `AsyncClient`. `pipelined`: with
`submit_many`, which is there for this; `unary`: a call each, 64 at once, without a goal. Peers:
acknowledged after the run, kept in Redis with an append-only file (`always`: synced before each answer, as durable as
ours; `everysec`: a second may be lost), in SQLite with fsync or in PostgreSQL. Coroutine workers run 64 at once,
threads 8, which is faster for them than 64. Taskiq and Huey submit with the number at once that was best for them just
before, and so do we; the others with 8.

All are there all the time, since idle they cost less than half a percent of a core; Huey polls, so that its worker
stands still (SIGSTOP) while it is not its turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from bench.longshore_tasks import HOWS
from bench.queue_peers import (
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
from bench.queues import Client, Site
from bench.rows import Goal, Run, number, row

SECONDS: Final = 1.0
"""Each round submits tasks for so many seconds."""
OTHERS: Final = 0.5
"""The same for peers without a goal."""
PIPELINED: Final = (64, 256, 1000)
UNARY: Final = 64
"""Submissions at once."""
GOALS: Final = {TASKIQ["always"].name: Goal(at_least=3.0), HUEY.name: Goal(at_least=1.0)}


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
        ours = await stack.enter_async_context(opened_ours(run, how=HOWS[0]))
        await choose(run, ours, PIPELINED)
        clients = {HOWS[0]: ours.client}
        for how in HOWS[1:]:
            clients[how] = await stack.enter_async_context(our_client(ours.folder, how).running())
        contenders = {
            f"ours {how}": partial(burst, run, ours, SECONDS, client, ours.at_once if how == HOWS[0] else UNARY)
            for how, client in clients.items()
        }
        for name, site in sites.items():
            contenders[name] = partial(burst, run, site, SECONDS if name in GOALS else OTHERS)
        for client in clients.values():
            await burst(run, ours, SECONDS, client)
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
    run: Run, site: Site, seconds: float, client: Client | None = None, at_once: int | None = None
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
    """Our best way of submitting against all; the other ways, without goals, against those that have one."""
    for place, how in enumerate(HOWS):
        for peer in sorted(peers, key=lambda peer: peer.name not in GOALS):
            if place == 0 or peer.name in GOALS:
                run.compare(
                    what=how,
                    peer=peer.name,
                    unit="tasks/s",
                    ours=figures[f"ours {how}"],
                    theirs=figures[peer.name],
                    goal=GOALS.get(peer.name) if place == 0 else None,
                )


main = row("tasks", measure, rounds=3, durable=True)

if __name__ == "__main__":
    main()
