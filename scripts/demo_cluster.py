"""Show a cluster in half a minute: a PostgreSQL, an object store, three servers, four workers, a load, and two deaths.

Everything runs on this machine, in a temporary directory: PostgreSQL comes from initdb, S3 from moto's server, and the
rest runs as usual. In the middle of the load the demo kills (-9) one server and one worker, and they stay dead. At the
end a table says whether each promise was kept; the exit code is 1 if one was broken.

    make demo-cluster                  python -m scripts.demo_cluster [--files N] [--keep]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from longshore.client import AsyncClient, LongshoreError
from scripts.demo_load import INSTANCES, PATIENCE, Load
from scripts.demo_verdict import Account, verdict
from tests.support.servers.cluster import ServerFleet, fleet_of
from tests.support.servers.processes import Process, WorkerProcess
from tests.support.stores.postgres import programs, running_cluster
from tests.support.stores.s3 import ENVIRONMENT, leftovers, running_object_store

SERVERS: Final = 3
WORKERS: Final = 4
LEASE: Final = "2s"
"""Short, so that a dead worker's tasks soon run elsewhere."""
WITHIN: Final = 35.0
"""Seconds for the load, deaths included; it takes about ten."""
KILL_SERVER_AT: Final = 0.25
KILL_WORKER_AT: Final = 0.5
"""Shares of the tasks that have ended by then."""


@dataclass(frozen=True, slots=True)
class BucketSpool:
    """Payloads in the object store."""

    url: str
    environment: Mapping[str, str] = field(default_factory=lambda: dict(ENVIRONMENT))

    @property
    def options(self) -> Sequence[str]:
        return ("--spool", self.url)

    def leftovers(self) -> Sequence[str]:
        return leftovers(self.url)


class Stage:
    """The stage shows the demo while it runs: lines that stay, and on a terminal a bar below them."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.began = time.monotonic()

    def say(self, text: str, *, style: str = "") -> None:
        """Print a line with the seconds since the beginning."""
        self.console.print(f"{time.monotonic() - self.began:5.1f} s  {text}", style=style or None)

    @contextmanager
    def bar(self, total: int) -> Iterator[Progress]:
        """Show how many tasks have ended, while the block runs."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            progress.add_task("delivered", total=total)
            yield progress


def play(stage: Stage, root: Path, files: int) -> bool:
    """Run the whole demo, and return whether every promise was kept."""
    with ExitStack() as stack:
        cluster = stack.enter_context(running_cluster())
        stage.say(f"PostgreSQL runs in {cluster.folder}")
        bucket = stack.enter_context(running_object_store())
        stage.say(f"the object store runs at {bucket.endpoint}")
        spool = BucketSpool(bucket.fresh_url())
        fleet = stack.enter_context(fleet_of(root, cluster, "--lease", LEASE, servers=SERVERS, spool=spool))
        stage.say(f"{SERVERS} servers on one database, payloads in {fleet.spool.options[-1]}")
        fleet.make_instances(*(f"i{number}" for number in range(INSTANCES)))
        workers = [stack.enter_context(worker) for worker in crew(fleet)]
        stage.say(f"{WORKERS} workers, each knows every server")
        account = asyncio.run(run_load(stage, fleet, workers, files))
        account.look(fleet)
        account.leave(workers, fleet.servers)
        stage.say("the survivors have left")
    return verdict(stage.console, account)


def crew(fleet: ServerFleet) -> list[WorkerProcess]:
    """Each begins with another server."""
    return [
        fleet.worker(
            "--concurrency", "4", name=f"worker-{number}", at=[(number + step) % SERVERS for step in range(SERVERS)]
        )
        for number in range(WORKERS)
    ]


async def run_load(stage: Stage, fleet: ServerFleet, workers: list[WorkerProcess], files: int) -> Account:
    """Push and watch, and kill two processes in the middle."""
    deaths: list[tuple[float, str, Process]] = [
        (KILL_SERVER_AT, "server s0", fleet.servers[0]),
        (KILL_WORKER_AT, "worker-1", workers[1]),
    ]
    async with AsyncClient(server=fleet.addresses, token_file=fleet.servers[0].token_file, patience=PATIENCE) as client:
        load = Load(client, files, seed=random.SystemRandom().randrange(1 << 32))
        account = Account(files=files, load=load)
        with stage.bar(files) as bar:

            def told(ended: int) -> None:
                bar.update(bar.task_ids[0], completed=ended)
                if deaths and ended >= deaths[0][0] * files:
                    _, name, process = deaths.pop(0)
                    process.kill()
                    account.killed.append(name)
                    stage.say(f"kill -9 {name}, pid {process.pid}, with {ended} of {files} tasks done", style="red")

            began = time.monotonic()
            try:
                async with asyncio.timeout(WITHIN):
                    await load.run(told)
            except* (TimeoutError, LongshoreError) as errors:
                stage.say(f"the load did not end well: {errors.exceptions[0]!r}", style="bold red")
            account.took = time.monotonic() - began
    stage.say(f"{load.ended} of {files} tasks have ended, after {account.took:.1f} s of load")
    return account


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="demo-cluster", description="A cluster, a load, and two deaths.")
    parser.add_argument("--files", type=int, default=240, help="files to deliver [240]")
    parser.add_argument(
        "--keep", action="store_true", help="leave the temporary directory, with every log, where it is"
    )
    options = parser.parse_args()
    if programs() is None:
        sys.exit("demo-cluster: there is no initdb here. Install PostgreSQL (as root: make parts), and try again.")
    stage = Stage()
    # The demo makes the object store and its credentials.
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    # The path must be short: a unix socket's path may have 107 bytes.
    root = Path(tempfile.mkdtemp(prefix="longshore-"))
    try:
        kept = play(stage, root, options.files)
    finally:
        if options.keep:
            print(f"Left in {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
