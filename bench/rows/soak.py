"""This row runs a mixed load for 30 minutes, kills what serves it, and shows whether anything grows.

A longshored on SQLite and two workers with the directory target serve small and large uploads, submissions with and
without a file, a stream of submissions, watches, cancels, failing and retried tasks, lists and figures
(bench/loads/soak.py). One worker is killed (-9) every 20 s, the server five times a run; both are started again at
once. History and retention are a minute, so that everything ought to be flat once that has passed.

Sampled each second: resident memory of the server and of the worker that is not killed, the database, its write-ahead
log, and the spool. For each the row prints the slope a minute with its standard error and the drift over the run
(bench/support/trend.py). Memory has a level of its own in each life of the server, and the first third of a life does
not count; of the files the first third of the run does not. `flat` is reached when the 95 % interval of the slope
includes 0 or a fall, or when the drift is below 5 %; a run of less than 10 minutes is too short to judge. At the end
every acknowledged task must have ended as it truly should.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.loads.soak import PATIENCE, Account, Load
from bench.support.figures import MIB
from bench.support.processes import ROOT
from bench.support.run import Row, Run
from bench.support.trend import Sample, Trend
from longshore.client import AsyncClient
from tests.support.servers.processes import Process

MINUTES: Final = 30.0
SHARE: Final = 0.05
"""The drift over the run that counts as flat in any case."""
SERVER_KILLS: Final = 5
WORKER_PAUSE: Final = 20.0
"""Seconds between two kills of the worker."""
KEPT: Final = 60.0
"""Seconds of history and retention."""
PAUSE: Final = 0.1
LARGE: Final = 4 * MIB
SEED: Final = 7
INSTANCES: Final = 20
JUDGED: Final = 10.0
"""Minutes that a run must last for a verdict on its slopes."""
SERVER: Final = "server memory"


def size_of(*paths: Path) -> float:
    """MiB of these files, and of all files in these folders."""
    total = 0
    for path in paths:
        for each in [path, *path.rglob("*")] if path.is_dir() else [path]:
            try:
                total += each.stat().st_size if each.is_file() else 0
            except FileNotFoundError:
                continue  # removed since it was listed
    return total / MIB


@dataclass(slots=True)
class Watcher:
    """Samples each figure every second, with the life of the server that it belongs to."""

    looks: dict[str, Callable[[], float]]
    began: float
    life: int = 0
    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))

    async def run(self, every: float) -> None:
        while True:
            minute = (time.monotonic() - self.began) / 60
            for name, look in self.looks.items():
                try:
                    self.samples[name].append((self.life, minute, look()))
                except (AssertionError, FileNotFoundError, ProcessLookupError):
                    continue  # killed a moment ago
            await asyncio.sleep(every)

    def settled(self, name: str) -> list[Sample]:
        """Return the samples of a figure without the first third of each life. Files have one life."""
        lives: dict[int, list[Sample]] = defaultdict(list)
        for life, minute, figure in self.samples[name]:
            of = life if name == SERVER else 0
            lives[of].append((of, minute, figure))
        return [sample for samples in lives.values() for sample in samples[len(samples) // 3 :]]


class Site:
    """The server, the worker that lives on, and the one that is killed."""

    def __init__(self, run: Run, stack: ExitStack, kept: str) -> None:
        self.folder = run.folder / "soak"
        self.server = run.server(
            self.folder, "--history", kept, "--retention", kept, "--lease", "3s", "--queue-limit", "100000"
        )
        stack.enter_context(self.server)
        places = self.folder / "instances"
        for number in range(INSTANCES):
            (places / f"i{number}" / "srv").mkdir(parents=True)
        self.workers: list[Process] = [
            stack.enter_context(
                run.worker(
                    self.server,
                    "--handlers",
                    "bench.loads.soak:registry",
                    "--concurrency",
                    "16",
                    targets=[f"default=directory:{places}"],
                    name=name,
                    environment={"PYTHONPATH": str(ROOT)},
                )
            )
            for name in ("lives", "dies")
        ]

    def looks(self) -> dict[str, Callable[[], float]]:
        data = self.server.data
        wal = data / "longshore.db-wal"
        return {
            SERVER: lambda: self.server.resident() / MIB,
            "worker memory": lambda: self.workers[0].resident() / MIB,
            "database": lambda: size_of(data / "longshore.db"),
            "write-ahead log": lambda: size_of(wal),
            "spool": lambda: size_of(data / "spool"),
        }

    async def kill_worker(self, pause: float, until: float, chance: random.Random) -> int:
        """Kill the second worker again and again, and answer how often."""
        kills = 0
        while True:
            await asyncio.sleep(pause * chance.uniform(0.7, 1.3))
            if time.monotonic() > until:
                return kills
            await asyncio.to_thread(again, self.workers[1])
            kills += 1

    async def kill_server(self, times: list[float], watcher: Watcher) -> int:
        """Kill the server at these times, and answer how often."""
        for at in times:
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            await asyncio.to_thread(again, self.server)
            watcher.life += 1
        return len(times)


def again(process: Process) -> None:
    """Kill the process, and start it anew."""
    process.kill()
    process.start()


@dataclass(frozen=True, slots=True)
class Soaked:
    """What came of a run: the account, the samples, the kills, and the tasks that the server still remembers."""

    account: Account
    watcher: Watcher
    kills: int
    remembered: int


async def soak(run: Run, minutes: float, *, kept: float = KEPT, server_kills: int = SERVER_KILLS) -> Soaked:
    """Run the load for so many minutes, then wait for the end of what was acknowledged. `kept`: seconds of history."""
    with ExitStack() as stack:
        site = Site(run, stack, f"{kept:g}s")
        began = time.monotonic()
        until = began + 60 * minutes
        watcher = Watcher(site.looks(), began)
        account = Account()
        chance = random.Random(SEED)
        # The last life is as long as the others.
        kills = [began + 60 * minutes * (each + 1) / (server_kills + 1) for each in range(server_kills)]
        async with AsyncClient(
            server=site.server.address, token_file=site.server.token_file, patience=PATIENCE, timeout=PATIENCE
        ) as client:
            load = Load(client, account, seed=SEED, pause=PAUSE, large=LARGE)
            sampling = asyncio.create_task(watcher.run(min(1.0, minutes)))
            killing = [
                asyncio.create_task(site.kill_server(kills, watcher)),
                asyncio.create_task(site.kill_worker(min(WORKER_PAUSE, 10 * minutes), until, chance)),
            ]
            try:
                working = asyncio.create_task(load.run(until))
                await asyncio.sleep(60 * minutes)
                sampling.cancel()
                await working
                server_kills, worker_kills = await asyncio.gather(*killing)
            finally:
                for each in (sampling, *killing):
                    each.cancel()
        ((remembered,),) = site.server.execute("SELECT count(*) FROM tasks")
        run.say(f"soak: {server_kills} kills of the server, {worker_kills} of a worker; {dict(account.ended)}")
        if account.troubles:
            run.say(f"soak: calls that were not acknowledged: {dict(account.troubles)}")
        return Soaked(account, watcher, server_kills + worker_kills, remembered)


async def measure(run: Run) -> None:
    minutes = run.minutes or MINUTES
    soaked = await soak(run, minutes)
    account, watcher = soaked.account, soaked.watcher
    if account.wrong:
        raise AssertionError(f"{len(account.wrong)} acknowledged tasks did not end truthfully: {account.wrong[:10]}")
    run.verdict(f"soak truth: {sum(account.ended.values()):,} acknowledged tasks ended truthfully, 0 lost", True)
    for name in watcher.looks:
        trend = Trend.of(watcher.settled(name))
        flat = trend.flat(SHARE)
        line = (
            f"soak {name}: {trend.mean:.1f} MiB, slope {trend.slope:+.3f} ± {trend.error:.3f} MiB a minute, drift "
            f"{100 * trend.drift:+.1f} % in {trend.minutes:.0f} min"
        )
        if minutes < JUDGED:
            run.say(f"{line}, flat: not judged")
        else:
            run.verdict(f"{line}, flat: {'reached' if flat else 'missed'}", flat)


ROWS: Final = (Row(name="soak", unit="MiB", measure=measure, rounds=1, named=True),)
