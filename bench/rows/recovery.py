"""Worker and broker killed (-9) in the middle of 100 tasks, and started again at once: how many are done, and when?

100 tasks of 0.2 s, 8 at once. When 24 have run, worker and broker are killed, on both sides; ours: worker and server,
which holds the database. Both are started again at once. Counted are tasks that have run to their end (ours besides:
that the server has as SUCCEEDED), and seconds from the kill to the last of them, starting included. Ours is looked at
for 70 s after the kill, peers for 30 s, and who is not through by then has that for its seconds. A task may run twice,
which nobody promises to prevent.

Peers have what redelivers soonest: Celery acknowledges late and has a visibility time-out of 5 s, Dramatiq a heartbeat
time-out of 5 s, Taskiq an idle time-out of 5 s, Procrastinate a periodic task that retries jobs of workers without a
heartbeat for 5 s; Huey has nothing of the kind. Redis syncs `always`. They run once, all side by side, since they
mostly wait; ours several times, alone, with its defaults: killed once, as the peers, and again and again, at 24, 40, 56
and 72 tasks. The worst of our runs is what counts.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from bench.support.figures import Goal
from bench.support.queue_peers import (
    CELERY,
    DRAMATIQ,
    HUEY,
    PROCRASTINATE,
    TASKIQ,
    THREADS,
    Peer,
    install,
    opened,
    opened_ours,
)
from bench.support.queues import Site, submit
from bench.support.run import Contender, Row, Run
from longshore.client import AsyncClient, TaskState
from longshore.v1 import task_service_pb2 as pb

TASKS: Final = 100
ONCE: Final = (24,)
AGAIN_AND_AGAIN: Final = (24, 40, 56, 72)
"""Tasks that have run when everything is killed."""
WITHIN: Final = 70.0
WITHIN_PEERS: Final = 30.0
"""Seconds after the last kill for which is looked."""
REDELIVERY: Final = 5
"""Seconds: see the peers."""
PEERS: Final = (CELERY["always"], DRAMATIQ["always"], TASKIQ["always"], HUEY, PROCRASTINATE)
ALL: Final = Goal(at_least=float(TASKS), ours=True)
SOON: Final = Goal(at_most=10.0, ours=True)
LOOK: Final = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome counts the tasks that ran, the seconds from the last kill to the last of them, and all runs."""

    done: int
    seconds: float
    runs: int


async def kill_at(site: Site, kills: Sequence[int], within: float) -> Outcome:
    """Submit, kill, start again, and look. The site is warm: what it ran before does not count."""
    before = site.runs
    await submit(site.client, "slow", count=TASKS, at_once=8)
    killed = 0.0
    for count in kills:
        await look(lambda count=count: done(site, before) >= count, WITHIN)  # type: ignore[misc]
        killed = time.monotonic()
        await asyncio.to_thread(again, site)
    await look(lambda: done(site, before) >= TASKS, killed + within - time.monotonic())
    runs = site.ran(before)
    complete = len({each.number for each in runs})
    seconds = max(each.at for each in runs) / 1e9 - killed if complete == TASKS else within
    return Outcome(complete, seconds, len(runs))


async def look(there: Callable[[], bool], within: float) -> None:
    """Until it is there, or so many seconds."""
    deadline = time.monotonic() + within
    while True:
        if there() or time.monotonic() > deadline:
            return
        await asyncio.sleep(LOOK)


def again(site: Site) -> None:
    """Both are dead before one of them is started."""
    site.worker.kill()
    if site.broker is not None:
        site.broker.kill()
        site.broker.start()
    site.worker.start()


def done(site: Site, before: int) -> int:
    return len({each.number for each in site.ran(before)})


async def ours(run: Run, name: str, kills: Sequence[int]) -> Outcome:
    """A server of its own for each run; what counts is what it says afterwards."""
    async with opened_ours(run, name=name, concurrency=THREADS) as site:
        outcome = await kill_at(site, kills, WITHIN)
        # The last report may be on its way.
        for _ in range(50):
            if (succeeded := await successes(site)) >= outcome.done:
                break
            await asyncio.sleep(LOOK)
    run.say(f"{run.row}: ours, killed at {', '.join(map(str, kills))}: {outcome}, {succeeded} of them SUCCEEDED")
    return Outcome(min(outcome.done, succeeded), outcome.seconds, outcome.runs)


async def successes(site: Site) -> int:
    """Tasks of the load that the server has as succeeded."""
    where = site.folder / "s.sock"
    async with AsyncClient(server=f"unix:{where}", token_file=site.folder / "data" / "token") as client:
        filter = pb.TaskFilter(states=[TaskState.TASK_STATE_SUCCEEDED], kinds=["slow"])
        return len([each async for each in client.list(filter=filter)])


async def ours_alone(run: Run, _stack: AsyncExitStack) -> dict[str, Contender]:
    """Seconds, killed once."""
    numbers = itertools.count()

    async def once() -> float:
        return (await ours(run, f"once-{next(numbers)}", ONCE)).seconds

    return {"killed once": once}


async def theirs(run: Run, peer: Peer) -> Outcome:
    async with opened(run, peer, again=REDELIVERY, coroutines=THREADS) as site:
        outcome = await kill_at(site, ONCE, WITHIN_PEERS)
    run.say(f"{run.row}: {peer.name}: {outcome}")
    return outcome


async def measure(run: Run) -> None:
    install("redis", "postgresql")
    once = [await ours(run, f"once-{number}", ONCE) for number in range(run.rounds)]
    often = [await ours(run, f"often-{number}", AGAIN_AND_AGAIN) for number in range(run.rounds)]
    async with asyncio.TaskGroup() as group:
        running = {peer.name: group.create_task(theirs(run, peer)) for peer in PEERS}
    found = {name: task.result() for name, task in running.items()}
    for name, outcome in found.items():
        compare(run, "killed once", once, name, outcome)
    best = max(found, key=lambda name: (found[name].done, -found[name].seconds))
    compare(run, "killed again and again", often, best, found[best])


def compare(run: Run, how: str, outcomes: Sequence[Outcome], name: str, outcome: Outcome) -> None:
    """The worst of ours against a peer, which ran once."""
    what, peer = f"{how}, worst of {len(outcomes)}", f"{name} (once, looked at for {WITHIN_PEERS:g} s)"
    least, longest = min(each.done for each in outcomes), max(each.seconds for each in outcomes)
    run.compare(what=what, peer=peer, unit="of 100", ours=[least], theirs=[outcome.done], goal=ALL)
    run.compare(what=what, peer=peer, unit="s", ours=[longest], theirs=[outcome.seconds], goal=SOON)


ROWS: Final = (Row(name="recovery", unit="s", measure=measure, ours=ours_alone, rounds=3, pairs=3),)
