"""The rows about deliveries share this module: a real LXD with one container, a real server and worker, and the peers.

The peers are what people use today: the `lxc file push` command of the LXD that runs, and pylxd's `files.put` with a
file object, in a process of its own, its client connected beforehand. A push that has just been measured is followed by
a `sync` outside of the measurement, so that nobody pays for what another left to be written.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.support.figures import MIB
from bench.support.processes import Talker, cpu, family
from bench.support.run import Run, installed
from tests.support.servers.processes import ServerProcess, WorkerProcess
from tests.support.workers.lxd import LxdDaemon, running_lxd


@dataclass(frozen=True, slots=True)
class Site:
    """A daemon with the running container `name`, and a server and a worker that deliver into it."""

    daemon: LxdDaemon
    name: str
    server: ServerProcess
    worker: WorkerProcess

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of `lxc`, and of `longshore` as the same user runs it."""
        folder = self.daemon.folder
        theirs = {"LXD_DIR": str(self.daemon.directory), "LXD_CONF": str(folder / "conf")}
        ours = {"LONGSHORE_SERVER": self.server.address, "LONGSHORE_TOKEN_FILE": str(self.server.token_file)}
        # An installed command has its bytecode. Images of containers tell Python to keep none for this checkout's.
        without = ("LONGSHORE_", "PYTHONDONTWRITEBYTECODE")
        return {k: v for k, v in os.environ.items() if not k.startswith(without)} | theirs | ours

    def cpu(self, **others: int) -> dict[str, float]:
        """CPU seconds of each process so far, of `others` by pid, and of all commands that have ended."""
        pids = {"server": self.server.pid, "worker": self.worker.pid, "lxd": self.daemon.pid} | others
        ended = os.times()
        return {
            **{name: cpu(pid) for name, pid in pids.items()},
            # LXD serves SFTP from a process of its own for each instance in use.
            "lxd's": sum(cpu(pid) for pid in family(self.daemon.pid)[1:]),
            "commands": ended.children_user + ended.children_system,
        }


@contextmanager
def site(
    run: Run,
    *,
    targets: Sequence[str] = (),
    server_options: Sequence[str] = (),
    worker_options: Sequence[str] = (),
) -> Iterator[Site]:
    """Everything up. `targets` besides the daemon, which is `default`."""
    installed("lxd", "busybox")
    with running_lxd() as daemon:
        name = daemon.launch("box")
        with (
            tempfile.TemporaryDirectory(dir=run.folder) as folder,
            run.server(Path(folder), *server_options) as server,
            run.worker(server, *worker_options, targets=[f"default=lxd:{daemon.socket}", *targets]) as worker,
        ):
            yield Site(daemon, name, server, worker)


def pattern(path: Path, size: int) -> Path:
    """A file of that many bytes, MiB by MiB different."""
    block = os.urandom(MIB)
    with path.open("wb") as file:
        for number in range(size // MIB):
            file.write(number.to_bytes(8, "big") + block[8:])
    return path


async def timed(*argv: str, environment: dict[str, str]) -> float:
    """Seconds that a command takes from its start to its end. Raises AssertionError unless it succeeds."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    took = time.perf_counter() - began
    assert process.returncode == 0, f"{argv} ended with {process.returncode}: {output.decode(errors='replace')}"
    return took


_PYLXD: Final = """
import json, sys, time, urllib.parse
import pylxd
client = pylxd.Client(endpoint="http+unix://" + urllib.parse.quote(sys.argv[1], safe=""))
files = client.instances.get(sys.argv[2]).files
print('"ready"', flush=True)
for line in sys.stdin:
    source, *paths = json.loads(line)
    began = time.perf_counter()
    for path in paths:
        with open(source, "rb") as file:
            files.put(path, file)
    print(time.perf_counter() - began, flush=True)
"""


class Pylxd(Talker):
    """`files.put` in a process of its own."""

    def __init__(self, here: Site) -> None:
        super().__init__(sys.executable, "-c", _PYLXD, str(here.daemon.socket), here.name)

    async def put(self, source: Path, paths: Sequence[str]) -> float:
        """Seconds to put one file at each of these places, one after the other."""
        return float(await self.ask([str(source), *paths]))


def said_cpu(run: Run, what: str, before: dict[str, float], after: dict[str, float], per: float, unit: str) -> None:
    """Each process's CPU between two looks, and all together, for `per` units of work."""
    # A process of LXD's that has ended meanwhile takes its figure along.
    spent = {name: max(0.0, after[name] - before[name]) / per for name in after}
    parts = ", ".join(f"{name} {figure:.3g}" for name, figure in spent.items())
    run.say(f"{run.row}: {what}, CPU in {unit}: {sum(spent.values()):.3g} ({parts})")


_numbers = itertools.count()


def fresh(prefix: str) -> str:
    """A path that nobody has used."""
    return f"/root/{prefix}-{next(_numbers)}"
