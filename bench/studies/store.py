"""This study measures the store's load and the cost of a command: on SQLite, on PostgreSQL, and in another version.

    python -m bench.studies.store [--rounds N] [--seconds S] [--against TREE]
    python -m bench.studies.store --batches [--push] [--postgres] [--rounds N] [--seconds S] [--against TREE]
    python -m bench.studies.store --batches --profile SIZE [--push]

Each measurement is a process of its own, in turns (A B A B). 64 submitters submit at once, then 64 attempts at a time
are claimed, granted and reported. Then one command at a time, counted: statements and round trips, milliseconds, and
CPU of this process.

`--batches`: CPU of the store's writer for a task from its submission to its end, in batches as the engine makes them.
No event loop and no threads: one connection, one transaction after the other. In each, N tasks are submitted, the N
before them are reported (of pushes, the N before those; N are granted in between), and N are claimed: what a steady
load comes to. `--profile`: with N = SIZE, in this process, with cProfile.

`--against` names a checkout of another version, with its .venv, measured in the same run.
Absolute figures are the machine's; the ratios are ours.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import itertools
import json
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.support.figures import Ratio, spread
from bench.support.processes import ROOT
from longshore.contract.request_ids import new_request_id
from longshore.server.data.generation import GenerationFile
from longshore.server.model.clock import SystemClock
from longshore.server.model.events import Policy, Reported
from longshore.server.model.task import Destination, FilePush, Grant, Job, Terms
from longshore.server.model.values import DeliveryMethod, Outcome
from longshore.server.store.commands import (
    Bounds,
    ClaimTasks,
    FileReports,
    Offer,
    OpenSession,
    RequestGrants,
    SubmitTasks,
    TaskPlan,
)
from longshore.server.store.handlers.clock_steps import ClockSteps, this_boot
from longshore.server.store.postgres.dialect import PostgresStore
from longshore.server.store.sqlite.dialect import SQLiteStore
from longshore.server.store.transaction.limits import ConcurrencyLimits
from tests.support.stores.postgres import Cluster, running_cluster

AT_ONCE: Final = 64
LONE: Final = 60
"""Commands one after the other."""
SIZES: Final = (1, 4, 16, 64)
"""Tasks in a batch."""

Figures = dict[str, float]


def store_of(database: str, instance: int) -> Any:
    """A store that is not open. `instance`: attempts at once at each."""
    limits = ConcurrencyLimits(instance=instance, target=1000)
    if database.startswith("postgresql"):
        return PostgresStore(url=database, policy=Policy(), limits=limits)
    clock = SystemClock()
    return SQLiteStore(
        path=Path(database),
        clock=clock,
        policy=Policy(),
        limits=limits,
        # As the server has it: what is written down outside the database costs too.
        generation=GenerationFile(Path(database).with_name("generation"), alone=True),
        steps=ClockSteps(clock, boot=this_boot()),
    )


class Commands:
    """The commands of a load with one session that takes everything."""

    SESSION: Final = "worker-1d5b0c2a9f3e"

    def __init__(self, *, push: bool) -> None:
        self._push = push
        self._numbers = itertools.count(1)

    def open_session(self) -> Any:
        return OpenSession(
            session_id=self.SESSION,
            worker="worker.example.org",
            principal="fleet",
            targets={"default": "daemon"} if self._push else {},
            kinds={"file_push": True, "noop": False},
            version="1",
            held=(),
            dead_sessions=(),
            lease=3600.0,
        )

    def submission(self) -> Any:
        number = next(self._numbers)
        push = FilePush(Destination("default", "", f"web{number % 50}", f"/srv/file-{number}"), mode=0o644)
        plan = TaskPlan(push if self._push else Job("noop", None), Terms())
        return SubmitTasks(
            principal="alice",
            request_id=new_request_id(),
            fingerprint="v1:5d41402abc4b2a76b9719d911017c5925d41402abc4b2a76b9719d911017c592",
            plans=(plan,),
            bounds=Bounds(queue_tasks=10_000_000, caller_tasks=10_000_000),
        )

    def claim(self, room: int) -> Any:
        offer = Offer(session_id=self.SESSION, epoch=1, room=room, idle=False, kept_for=frozenset())
        return ClaimTasks(offers=(offer,))

    def grant(self, tasks: Sequence[Any]) -> Any:
        method = DeliveryMethod.SFTP
        requests = tuple(
            (
                task.id,
                Grant(task.status.attempt, self.SESSION, f"/srv/.{task.id}.1", method, 0.0, 1, 0o644, 0, 0),
            )
            for task in tasks
        )
        return RequestGrants(session_id=self.SESSION, epoch=1, requests=requests)

    def report(self, tasks: Sequence[Any]) -> Any:
        reports = tuple((task.id, Reported(self.SESSION, task.status.attempt, Outcome.OK)) for task in tasks)
        return FileReports(session_id=self.SESSION, epoch=1, reports=reports)


# Commands at once, and one by one -------------------------------------------------------------------------------------


class Load:
    """An open store under load."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._commands = Commands(push=True)

    async def prepare(self) -> None:
        await self._store.run(self._commands.open_session())
        await self.submit(0.5)  # statements are compiled and prepared
        while taken := await self._claim(AT_ONCE):
            await self._store.run(self._commands.grant(taken))
            await self._store.run(self._commands.report(taken))

    async def _claim(self, room: int) -> list[Any]:
        return [task for _, task in (await self._store.run(self._commands.claim(room))).taken]

    async def submit(self, seconds: float) -> float:
        """Submissions a second."""
        done = 0
        end = time.perf_counter() + seconds

        async def submitter() -> None:
            nonlocal done
            while time.perf_counter() < end:
                await self._store.run(self._commands.submission())
                done += 1

        began = time.perf_counter()
        await asyncio.gather(*(submitter() for _ in range(AT_ONCE)))
        return done / (time.perf_counter() - began)

    async def finish(self, seconds: float) -> float:
        """Tasks a second that are claimed, granted and reported, AT_ONCE at a time, in three lines of work."""
        done = 0
        end = time.perf_counter() + seconds

        async def line() -> None:
            nonlocal done
            while time.perf_counter() < end and (taken := await self._claim(AT_ONCE)):
                await self._store.run(self._commands.grant(taken))
                await self._store.run(self._commands.report(taken))
                done += len(taken)

        began = time.perf_counter()
        await asyncio.gather(*(line() for _ in range(3)))
        return done / (time.perf_counter() - began)

    async def one_by_one(self) -> dict[str, Figures]:
        """Measure each command by itself."""
        found: dict[str, list[Figures]] = {name: [] for name in ("submit", "claim", "grant", "report")}
        run = self._store.run
        for _ in range(LONE):
            found["submit"].append(await self._cost(lambda: run(self._commands.submission())))
            taken: list[Any] = []

            async def claim(into: list[Any] = taken) -> None:
                into.extend(await self._claim(1))

            found["claim"].append(await self._cost(claim))
            found["grant"].append(await self._cost(partial(run, self._commands.grant(taken))))
            found["report"].append(await self._cost(partial(run, self._commands.report(taken))))
        return {
            name: {key: statistics.median(each[key] for each in costs) for key in costs[0]}
            for name, costs in found.items()
        }

    async def _cost(self, what: Callable[[], Any]) -> Figures:
        link = self._store._writer._link
        before = (getattr(link, "statements", 0), getattr(link, "round_trips", 0))
        began, cpu = time.perf_counter(), time.process_time()
        await what()
        return {
            "ms": 1000 * (time.perf_counter() - began),
            "cpu_ms": 1000 * (time.process_time() - cpu),
            "statements": getattr(link, "statements", 0) - before[0],
            "round_trips": getattr(link, "round_trips", 0) - before[1],
        }


async def measure_commands(database: str, seconds: float) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        store = store_of(database, 8)
        await store.open()
        stack.push_async_callback(store.close)
        load = Load(store)
        await load.prepare()
        result: dict[str, Any] = {"lone": await load.one_by_one()}
        for name, work in (("submitted", load.submit), ("done", load.finish)):
            cpu, began = time.process_time(), time.perf_counter()
            rate = await work(seconds)
            done = max(1.0, rate * (time.perf_counter() - began))
            result |= {name: rate, f"{name}_cpu_us": 1e6 * (time.process_time() - cpu) / done}
        return result


# Batches --------------------------------------------------------------------------------------------------------------


class Deaf:
    """A loop to which nothing is told."""

    def call_soon_threadsafe(self, *_arguments: object) -> None:
        pass


class Writer:
    """A store's writer, run by hand."""

    def __init__(self, database: str, size: int, *, push: bool) -> None:
        self._store = store_of(database, 64)
        if database.startswith("postgresql"):
            self._store._prepare()
            self._store._loop = Deaf()
            link = self._store._dialect.link()
            self._store._log.begin(link)
            link.close()
        else:
            self._store._writer._loop = Deaf()
            self._store._prepare()
        self._size, self._push = size, push
        self._commands = Commands(push=push)
        self._granted: list[Any] = []
        self._claimed: list[Any] = []
        self._run(self._commands.open_session())

    def _run(self, *commands: Any) -> list[Any]:
        outcomes, _ = self._store._writer._transaction(commands)
        return [outcome.result for outcome in outcomes]

    def batch(self) -> list[Any]:
        commands: list[Any] = []
        if ending := self._granted if self._push else self._claimed:
            commands.append(self._commands.report(ending))
        if self._push and self._claimed:
            commands.append(self._commands.grant(self._claimed))
            self._granted = self._claimed
        commands += [self._commands.submission() for _ in range(self._size)]
        commands.append(self._commands.claim(self._size))
        return commands

    def step(self, commands: list[Any]) -> int:
        """Carry a batch out; answers how many were claimed."""
        *_, claims = self._run(*commands)
        self._claimed = [task for _, task in claims.taken]
        return len(self._claimed)


def measure_batches(database: str, size: int, seconds: float, *, push: bool, profile: bool = False) -> Figures:
    writer, profiler = Writer(database, size, push=push), cProfile.Profile()
    for _ in range(max(5, 200 // size)):
        writer.step(writer.batch())
    # As the server does, once it has started.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    done, cpu, end = 0, 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        batch = writer.batch()
        began = time.process_time()
        done += profiler.runcall(writer.step, batch) if profile else writer.step(batch)
        cpu += time.process_time() - began
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(45)
    return {"cpu": 1e6 * cpu / done}


# All of them, compared ------------------------------------------------------------------------------------------------


def _child(tree: Path, database: str, options: argparse.Namespace, *more: str) -> dict[str, Any]:
    """One measurement in a process of its own, with that tree's interpreter."""
    python = sys.executable if tree == ROOT else str(tree / ".venv" / "bin" / "python")
    argv = [python, "-m", "bench.studies.store", "--measure", database, "--seconds", str(options.seconds), *more]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def _database(cluster: Cluster | None) -> Iterator[str]:
    """An empty one; `cluster` None: on SQLite."""
    if cluster is None:
        with tempfile.TemporaryDirectory() as folder:
            yield f"{folder}/database"
    else:
        with cluster.empty_database() as url:
            yield url


def compare(options: argparse.Namespace) -> None:
    trees = {"": ROOT} | ({" before": options.against.resolve()} if options.against else {})
    with ExitStack() as stack:
        cluster = stack.enter_context(running_cluster()) if options.postgres or not options.batches else None
        if options.batches:
            more = ("--push",) if options.push else ()
            for size in SIZES:
                cpu: dict[str, list[float]] = {name: [] for name in trees}
                for _, (name, tree) in itertools.product(range(options.rounds), trees.items()):
                    with _database(cluster) as database:
                        found = _child(tree, database, options, "--batches", "--profile", str(size), *more)
                        cpu[name].append(found["cpu"])
                ratio = f", after/before {Ratio.of(cpu[''], cpu[' before'])}" if len(trees) > 1 else ""
                print(f"{size:3} at once: µs of CPU a task {spread(cpu[''])}{ratio}", flush=True)
            return
        results: dict[str, list[dict[str, Any]]] = {}
        makes = {"SQLite": None, "PostgreSQL": cluster}
        for _, (make, where), (name, tree) in itertools.product(range(options.rounds), makes.items(), trees.items()):
            with _database(where) as database:
                results.setdefault(f"{make}{name}", []).append(_child(tree, database, options))
    for name, each in results.items():
        print(f"\n{name}")
        for what in ("submitted", "done"):
            rate, cost = ([one[key] for one in each] for key in (what, f"{what}_cpu_us"))
            print(f"  {what:9} per second {spread(rate)}   µs of CPU each {spread(cost)}")
        for what in ("submit", "claim", "grant", "report"):
            costs = [one["lone"][what] for one in each]
            print(
                f"  a lone {what:6}", *(f"{key} {spread([cost[key] for cost in costs])}" for key in costs[0]), sep="  "
            )
    print()
    for this, that in (("PostgreSQL", "SQLite"), ("PostgreSQL", "PostgreSQL before"), ("SQLite", "SQLite before")):
        if that in results:
            for what in ("submitted", "done"):
                rates = ([one[what] for one in results[name]] for name in (this, that))
                print(f"{this} : {that}, {what:9} {Ratio.of(*rates)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--batches", action="store_true")
    parser.add_argument("--push", action="store_true", help="batches of pushes, instead of no-ops")
    parser.add_argument("--postgres", action="store_true", help="batches on PostgreSQL, instead of SQLite")
    parser.add_argument("--profile", type=int, metavar="SIZE")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure and not options.batches:
        print(json.dumps(asyncio.run(measure_commands(options.measure, options.seconds))))
    elif options.measure:
        print(json.dumps(measure_batches(options.measure, options.profile, options.seconds, push=options.push)))
    elif options.profile:
        with _database(None) as database:
            print(measure_batches(database, options.profile, options.seconds, push=options.push, profile=True))
    else:
        compare(options)


if __name__ == "__main__":
    main()
