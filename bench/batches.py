"""CPU of the store's writer for a task from its submission to its end, in batches as the engine makes them.

    python bench/batches.py [--size N] [--push] [--seconds S] [--database URL] [--profile]
    python bench/batches.py --against TREE [--rounds N]

No event loop and no threads: one connection, one transaction after the other. In each, N tasks are submitted, the N
before them are reported (of pushes, the N before those; N are granted in between), and N are claimed: what a steady
load comes to. `--against` names a checkout of another version, measured in turns with this one.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIZES = (1, 4, 16, 64)


class Deaf:
    """A loop to which nothing is told."""

    def call_soon_threadsafe(self, *_arguments: object) -> None:
        pass


class Load:
    """A store's writer, run by hand, and one session that takes everything."""

    def __init__(self, database: str, size: int, *, push: bool) -> None:
        from longshore.server.model.events import Policy
        from longshore.server.store.transaction.limits import ConcurrencyLimits

        limits = ConcurrencyLimits(instance=64, target=1000)
        if database.startswith("postgresql"):
            from longshore.server.store.postgres.dialect import PostgresStore

            self._store: Any = PostgresStore(url=database, policy=Policy(), limits=limits)
            self._store._prepare()
            deaf: Any = Deaf()
            self._store._loop = deaf
            link = self._store._dialect.link()
            self._store._log.begin(link)
            link.close()
        else:
            from longshore.server.model.clock import SystemClock
            from longshore.server.store.sqlite.dialect import SQLiteStore

            clock = SystemClock()
            more: dict[str, Any] = {}
            try:
                from longshore.server.data.generation import GenerationFile
                from longshore.server.store.handlers.clock_steps import ClockSteps, this_boot
            except ImportError:
                pass  # a version from before: `--against`
            else:
                # As the server has it: what is written down outside the database costs too.
                more["generation"] = GenerationFile(Path(database).with_name("generation"), alone=True)
                more["steps"] = ClockSteps(clock, boot=this_boot())
            self._store = SQLiteStore(path=Path(database), clock=clock, policy=Policy(), limits=limits, **more)
            self._store._writer._loop = Deaf()
            self._store._prepare()
        self._size = size
        self._push = push
        self._numbers = itertools.count(1)
        self._chance = random.Random(1)
        self._granted: list[Any] = []
        self._claimed: list[Any] = []
        self._open_session()

    def _run(self, *commands: Any) -> list[Any]:
        outcomes, _ = self._store._writer._transaction(commands)
        return [outcome.result for outcome in outcomes]

    def _open_session(self) -> None:
        from longshore.server.store.commands import OpenSession

        self._run(
            OpenSession(
                session_id="worker-1d5b0c2a9f3e",
                worker="worker.example.org",
                principal="fleet",
                targets={"default": "daemon"} if self._push else {},
                kinds={"file_push": True, "noop": False},
                version="1",
                held=(),
                dead_sessions=(),
                lease=3600.0,
            )
        )

    def _submission(self) -> Any:
        from longshore.server.model.task import Destination, FilePush, Job
        from longshore.server.store.commands import Bounds, SubmitTasks, TaskPlan

        number = next(self._numbers)
        if self._push:
            work: Any = FilePush(Destination("default", "", f"web{number % 50}", f"/srv/file-{number}"), mode=0o644)
        else:
            work = Job("noop", None)
        plan = TaskPlan(
            kind="file_push" if self._push else "noop",
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
            request_id=f"bench-{self._chance.getrandbits(96):024x}",
            fingerprint="v1:5d41402abc4b2a76b9719d911017c5925d41402abc4b2a76b9719d911017c592",
            plans=(plan,),
            bounds=Bounds(queue_tasks=10_000_000, caller_tasks=10_000_000),
        )

    def batch(self) -> list[Any]:
        from longshore.server.model.events import Reported
        from longshore.server.model.task import Grant
        from longshore.server.model.values import DeliveryMethod, Outcome
        from longshore.server.store.commands import ClaimTasks, FileReports, Offer, RequestGrants

        session: dict[str, Any] = {"session_id": "worker-1d5b0c2a9f3e", "epoch": 1}
        name = session["session_id"]
        commands: list[Any] = []
        ending = self._granted if self._push else self._claimed
        if ending:
            reports = tuple((task.id, Reported(name, task.status.attempt, Outcome.OK)) for task in ending)
            commands.append(FileReports(**session, reports=reports))
        if self._push and self._claimed:
            requests = tuple(
                (
                    task.id,
                    Grant(task.status.attempt, name, f"/srv/.{task.id}.1", DeliveryMethod.SFTP, 0.0, 1, 0o644, 0, 0),
                )
                for task in self._claimed
            )
            commands.append(RequestGrants(**session, requests=requests))
            self._granted = self._claimed
        commands += [self._submission() for _ in range(self._size)]
        offer = Offer(**session, room=self._size, idle=False, kept_for=frozenset())
        commands.append(ClaimTasks(offers=(offer,)))
        return commands

    def step(self, commands: list[Any]) -> int:
        """Carry a batch out; answers how many were claimed."""
        *_, claims = self._run(*commands)
        self._claimed = [task for _, task in claims.taken]
        return len(self._claimed)


def measure(database: str, size: int, seconds: float, *, push: bool, profile: bool) -> dict[str, float]:
    load = Load(database, size, push=push)
    for _ in range(max(5, 200 // size)):
        load.step(load.batch())
    # As the server does: see its `tuning`.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    done = transactions = 0
    cpu = wall = 0.0
    profiler: Any = None
    if profile:
        import cProfile

        profiler = cProfile.Profile()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        batch = load.batch()
        began, began_cpu = time.perf_counter(), time.process_time()
        if profiler is not None:
            profiler.enable()
        done += load.step(batch)
        if profiler is not None:
            profiler.disable()
        cpu += time.process_time() - began_cpu
        wall += time.perf_counter() - began
        transactions += 1
    if profiler is not None:
        import pstats

        print(f"{done} tasks, {transactions} transactions")
        pstats.Stats(profiler).sort_stats("tottime").print_stats(45)
    return {"cpu": 1e6 * cpu / done, "wall": 1e6 * wall / done, "done": float(done)}


def run(tree: Path, database: str, arguments: list[str]) -> dict[str, float]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(tree / part) for part in ("server", "protos"))}
    command = [sys.executable, __file__, "--database", database, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def compare(against: Path, rounds: int, seconds: float, *, postgres: bool) -> None:
    from contextlib import ExitStack

    sys.path.insert(0, str(ROOT))
    from tests.support.stores.postgres import running_cluster

    with ExitStack() as stack:
        cluster = stack.enter_context(running_cluster()) if postgres else None
        for push in (False, True):
            for size in SIZES:
                found: dict[Path, list[float]] = {ROOT: [], against: []}
                arguments = ["--size", str(size), "--seconds", str(seconds), *(["--push"] if push else [])]
                for _ in range(rounds):
                    for tree, cpu in found.items():
                        if cluster is not None:
                            with cluster.empty_database() as url:
                                cpu.append(run(tree, url, arguments)["cpu"])
                        else:
                            with tempfile.TemporaryDirectory() as folder:
                                cpu.append(run(tree, f"{folder}/database", arguments)["cpu"])
                ours, before = found[ROOT], found[against]
                ratios = [a / b for a, b in zip(ours, before, strict=True)]
                print(
                    f"{'push' if push else 'noop'} {size:3} at once: µs of CPU a task {statistics.median(ours):7.1f}, "
                    f"before {statistics.median(before):7.1f}, ratio {statistics.median(ratios):.2f} "
                    f"({min(ratios):.2f} to {max(ratios):.2f})",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--push", action="store_true")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--database")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--postgres", action="store_true", help="with --against: on PostgreSQL")
    options = parser.parse_args()
    if options.against is not None:
        compare(options.against.resolve(), options.rounds, options.seconds, postgres=options.postgres)
        return
    with tempfile.TemporaryDirectory() as folder:
        database = options.database or f"{folder}/database"
        found = measure(database, options.size, options.seconds, push=options.push, profile=options.profile)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
