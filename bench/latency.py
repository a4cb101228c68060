"""This row measures the time from a submission's beginning to its handler's first line, on an idle system.

    make bench ROW=latency       [SLOWSYNC_US=1000]

One task about every 5 ms, 500 of them a round, each after the one before was accepted. The time begins before the
client's call and ends in the handler, both in CLOCK_MONOTONIC; so it holds the way to the server or broker, the durable
acceptance and the way to the worker. All samples of a round make its median and its 99th percentile.

Ours, with a call of `AsyncClient.submit` for each, and Taskiq, the fastest peer here, are as in the row `tasks`:
`always` is as durable as ours, `everysec` is not. Goals are in milliseconds, as DESIGN.md names them.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final

from bench.queue_peers import SYNCS, TASKIQ, install, opened, opened_ours
from bench.queues import Site, percentile
from bench.rows import Goal, Run, row

TASKS: Final = 500
EVERY: Final = 0.005
"""Seconds from one submission to the next."""
PERCENTILES: Final = {"p50": 0.5, "p99": 0.99}
GOALS: Final = {"p50": Goal(at_most=0.8, ours=True), "p99": Goal(at_most=2.0, ours=True)}
SLOW_GOALS: Final = {"p50": Goal(at_most=3.0, ours=True)}
"""With a millisecond more for each sync."""


class Contender:
    """A queue, and every round's percentiles."""

    def __init__(self, run: Run, site: Site) -> None:
        self._run = run
        self._site = site
        self.rounds: dict[str, list[float]] = {name: [] for name in PERCENTILES}

    async def __call__(self) -> float:
        """A turn; answers its median."""
        samples = await self._site.paced(TASKS, EVERY)
        for name, share in PERCENTILES.items():
            self.rounds[name].append(percentile(samples, share))
        self._run.say(f"{self._run.row}: {self._site.name}: {self._site.costs}; at most {samples[-1]:.2f} ms")
        return self.rounds["p50"][-1]


async def measure(run: Run) -> None:
    install("redis")
    async with AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(opened_ours(run))]
        sites += [await stack.enter_async_context(opened(run, TASKIQ[sync])) for sync in SYNCS]
        contenders = {site.name: Contender(run, site) for site in sites}
        # The first round is a warm-up.
        await run.turns(contenders, warm=1)
    ours = contenders["ours"]
    goals = SLOW_GOALS if run.slow else GOALS
    for sync in SYNCS:
        theirs = contenders[TASKIQ[sync].name]
        for name in PERCENTILES:
            run.compare(
                what=name,
                peer=TASKIQ[sync].name,
                unit="ms",
                ours=ours.rounds[name][1:],
                theirs=theirs.rounds[name][1:],
                goal=goals.get(name) if sync == SYNCS[0] else None,
            )


main = row("latency", measure, rounds=5, durable=True)

if __name__ == "__main__":
    main()
