"""What the store carries and what a command costs: on SQLite, on PostgreSQL, and on both in another version.

    python bench/store.py [--rounds N] [--seconds S] [--against TREE]

Each measurement is a process of its own, in turns (A B C A B C). 64 submitters submit at once, then 64 attempts at a
time are claimed, granted and reported. Then one command at a time, counted: statements and round trips, milliseconds,
and CPU of this process. `--against` names a checkout of another version (`git worktree add`), measured in the same
run. Absolute figures are the machine's; the ratios are ours.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
AT_ONCE = 64
LONE = 60
"""Commands one after the other."""

Figures = dict[str, float]


# One measurement, in a process of its own ---------------------------------------------------------------------------


@asynccontextmanager
async def opened(database: str) -> AsyncIterator[Any]:
    """A store; the imports are those of the tree that is measured."""
    from longshore.server.model.events import Policy
    from longshore.server.store.transaction.limits import ConcurrencyLimits

    limits = ConcurrencyLimits(instance=8, target=4 * AT_ONCE)
    if database.startswith("postgresql"):
        from longshore.server.store.postgres.dialect import PostgresStore

        store: Any = PostgresStore(url=database, policy=Policy(), limits=limits)
    else:
        from longshore.server.model.clock import SystemClock
        from longshore.server.store.sqlite.dialect import SQLiteStore

        store = SQLiteStore(path=Path(database), clock=SystemClock(), policy=Policy(), limits=limits)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


class Load:
    """Submitters and one session that takes everything."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._numbers = itertools.count(1)

    def submission(self) -> Any:
        from longshore.server.model.task import Destination, FilePush
        from longshore.server.store.commands import Bounds, SubmitTasks, TaskPlan

        number = next(self._numbers)
        work = FilePush(Destination("default", "", f"web{number % 50}", f"/srv/file-{number}"))
        plan = TaskPlan(
            kind="file_push",
            work=work,
            queue="default",
            priority=0,
            labels={},
            not_before=0.0,
            expire_after=86400.0,
            run_timeout=3600.0,
            stall_timeout=None,
            attempt_limit=5,
        )
        return SubmitTasks(
            principal="alice",
            request_id=f"request-{number}",
            fingerprint="same",
            plans=(plan,),
            bounds=Bounds(queue_tasks=10_000_000),
        )

    async def open_session(self) -> None:
        from longshore.server.store.commands import OpenSession

        await self._store.run(
            OpenSession(
                session_id="session-1",
                worker="worker",
                principal="fleet",
                targets={"default": ""},
                kinds={"file_push": True},
                version="1",
                held=(),
                dead_sessions=(),
                lease=3600.0,
            )
        )

    async def submit(self, seconds: float) -> float:
        """Submissions a second."""
        done = 0
        end = time.perf_counter() + seconds

        async def submitter() -> None:
            nonlocal done
            while time.perf_counter() < end:
                await self._store.run(self.submission())
                done += 1

        began = time.perf_counter()
        await asyncio.gather(*(submitter() for _ in range(AT_ONCE)))
        return done / (time.perf_counter() - began)

    async def claim(self, room: int) -> Any:
        from longshore.server.store.commands import ClaimTasks, Offer

        offer = Offer(session_id="session-1", epoch=1, room=room, idle=False)
        return (await self._store.run(ClaimTasks(offers=(offer,)))).taken

    async def grant(self, taken: Any) -> None:
        from longshore.server.model.task import Grant
        from longshore.server.model.values import DeliveryMethod
        from longshore.server.store.commands import RequestGrants

        requests = tuple(
            (task.id, Grant(task.status.attempt, "session-1", ".temp", DeliveryMethod.SFTP, 0.0, 1, 0o644, 0, 0))
            for _, task in taken
        )
        await self._store.run(RequestGrants(session_id="session-1", epoch=1, requests=requests))

    async def report(self, taken: Any) -> None:
        from longshore.server.model.events import Reported
        from longshore.server.model.values import Outcome
        from longshore.server.store.commands import FileReports

        reports = tuple((task.id, Reported("session-1", task.status.attempt, Outcome.OK)) for _, task in taken)
        await self._store.run(FileReports(session_id="session-1", epoch=1, reports=reports))

    async def finish(self, seconds: float) -> float:
        """Tasks a second that are claimed, granted and reported, AT_ONCE at a time, in three lines of work."""
        done = 0
        end = time.perf_counter() + seconds

        async def line() -> None:
            nonlocal done
            while time.perf_counter() < end:
                taken = await self.claim(AT_ONCE)
                if not taken:
                    return
                await self.grant(taken)
                await self.report(taken)
                done += len(taken)

        began = time.perf_counter()
        await asyncio.gather(*(line() for _ in range(3)))
        return done / (time.perf_counter() - began)

    async def one_by_one(self) -> dict[str, Figures]:
        """What a command costs by itself."""
        found: dict[str, list[Figures]] = {name: [] for name in ("submit", "claim", "grant", "report")}
        for _ in range(LONE):
            found["submit"].append(await self._cost(lambda: self._store.run(self.submission())))
            taken: list[Any] = []

            async def claim(into: list[Any] = taken) -> None:
                into.extend(await self.claim(1))

            found["claim"].append(await self._cost(claim))
            found["grant"].append(await self._cost(partial(self.grant, taken)))
            found["report"].append(await self._cost(partial(self.report, taken)))
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


async def measure(database: str, seconds: float) -> dict[str, Any]:
    async with opened(database) as store:
        load = Load(store)
        await load.open_session()
        await load.submit(min(seconds, 0.5))  # statements are compiled and prepared
        while taken := await load.claim(AT_ONCE):
            await load.grant(taken)
            await load.report(taken)
        lone = await load.one_by_one()
        result: dict[str, Any] = {"lone": lone}
        for name, work in (("submitted", load.submit), ("done", load.finish)):
            cpu = time.process_time()
            began = time.perf_counter()
            rate = await work(seconds)
            result[name] = rate
            result[f"{name}_cpu_us"] = (
                1e6 * (time.process_time() - cpu) / max(1.0, rate * (time.perf_counter() - began))
            )
        return result


# All of them, compared ----------------------------------------------------------------------------------------------


def run(tree: Path, database: str, seconds: float) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(tree / part) for part in ("server", "protos"))}
    command = [sys.executable, __file__, "--measure", database, "--seconds", str(seconds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):7.2f} ({min(values):.2f} to {max(values):.2f})"


def compare(rounds: int, seconds: float, against: Path | None) -> None:
    sys.path.insert(0, str(ROOT))
    from tests.support.stores.postgres import running_cluster

    results: dict[str, list[dict[str, Any]]] = {}
    with running_cluster() as cluster:
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                results.setdefault("SQLite", []).append(run(ROOT, f"{folder}/database", seconds))
                if against is not None:
                    other = run(against, f"{folder}/other", seconds)
                    results.setdefault("SQLite before", []).append(other)
            with cluster.empty_database() as url:
                results.setdefault("PostgreSQL", []).append(run(ROOT, url, seconds))
            if against is not None:
                with cluster.empty_database() as url:
                    results.setdefault("PostgreSQL before", []).append(run(against, url, seconds))
    for name, found in results.items():
        print(f"\n{name}")
        for what in ("submitted", "done"):
            rate = spread([each[what] for each in found])
            cpu = spread([each[f"{what}_cpu_us"] for each in found])
            print(f"  {what:9} per second {rate}   µs of CPU each {cpu}")
        for what in ("submit", "claim", "grant", "report"):
            costs = [each["lone"][what] for each in found]
            line = "   ".join(f"{key} {spread([cost[key] for cost in costs])}" for key in costs[0])
            print(f"  a lone {what:6} {line}")
    print()
    for this, that in (("PostgreSQL", "SQLite"), ("PostgreSQL", "PostgreSQL before"), ("SQLite", "SQLite before")):
        if that in results:
            for what in ("submitted", "done"):
                ratios = [a[what] / b[what] for a, b in zip(results[this], results[that], strict=True)]
                print(f"{this} : {that}, {what:9} {spread(ratios)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(asyncio.run(measure(options.measure, options.seconds))))
    else:
        compare(options.rounds, options.seconds, options.against)


if __name__ == "__main__":
    main()
