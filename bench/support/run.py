"""Every row of the table shares this module: a row, a run of it, its turns, and the programs that are measured.

A row is a `Row` in the ROWS of a module of bench/rows. Its `measure` runs ours and each peer in turns (`Run.turns`),
and says with `Run.compare` what came of it. Its `ours` opens our side alone, so that two versions of it can be compared
(bench/support/against.py). No absolute time decides anything.
"""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from bench.support.figures import Comparison, Goal, number
from bench.support.processes import ROOT, Talker, family_cpu
from tests.support.servers.processes import Process, ServerProcess, WorkerProcess

SLOWSYNC: Final = "SLOWSYNC_US"
"""The environment variable that bench/support/slowsync.c reads."""

Contender = Callable[[], Awaitable[float]]
"""Runs its load once and answers its figure."""
Started = TypeVar("Started", bound=Process)


@dataclass(frozen=True, slots=True)
class Tree:
    """A checkout of Longshore, with an environment of its own, whose programs are measured."""

    root: Path

    @property
    def python(self) -> str:
        """Return the interpreter that finds this checkout's programs."""
        return sys.executable if self.root == ROOT else str(self.root / ".venv" / "bin" / "python")


class FloorServer(ServerProcess):
    """bench/floors/server.py as a process that our clients, senders and worker take for a server.

    On a unix socket or, with `port`, on a port of 127.0.0.1.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], *, port: bool) -> None:
        super().__init__(folder, name="floor", environment={"PYTHONPATH": str(ROOT), **environment})
        if port:
            self.address = "127.0.0.1:0"
        self.argv = [sys.executable, "-m", "bench.floors.server", self.address, str(self.data)]

    def start(self) -> None:
        """Start, and return when it serves."""
        self.data.mkdir(parents=True)
        self.token_file.write_text("nobody-asks")
        super().start()
        if not self.address.startswith("unix:"):
            self.address = f"127.0.0.1:{self.log().strip()}"

    def serving(self) -> bool:
        """Return whether it has said its port."""
        return self.log().endswith("\n")


@dataclass(slots=True)
class Run:
    """One row being measured. `folder`: an own directory, removed afterwards. `slow`: see Comparison.

    `rounds`: those that count. `minutes`: how long a row lasts that runs by the clock; 0 means its own time.
    `tree`: the checkout whose servers, workers and clients run.
    """

    row: str
    folder: Path
    rounds: int
    slow: int = 0
    minutes: float = 0.0
    tree: Tree = Tree(ROOT)
    comparisons: list[Comparison] = field(default_factory=list)
    verdicts: list[tuple[str, bool]] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    _programs: list[Process | Talker] = field(default_factory=list)

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    async def turns(self, contenders: Mapping[str, Contender], *, warm: int = 1) -> dict[str, tuple[float, ...]]:
        """Each contender once a round, the order reversed every other round; `warm` rounds are not counted."""
        figures: dict[str, list[float]] = {name: [] for name in contenders}
        for index in range(warm + self.rounds):
            self.loads.append(os.getloadavg()[0])
            names = list(contenders)[:: 1 if index % 2 == 0 else -1]
            for name in names:
                figure = await contenders[name]()
                if index >= warm:
                    figures[name].append(figure)
                self.say(f"{self.row}: {name} {number(figure)}{' (warm-up)' if index < warm else ''}")
        return {name: tuple(values) for name, values in figures.items()}

    def compare(
        self,
        *,
        peer: str,
        unit: str,
        ours: Sequence[float],
        theirs: Sequence[float],
        goal: Goal | None = None,
        what: str = "",
    ) -> None:
        """Keep and print one line."""
        made = Comparison(self.row, what, unit, peer, tuple(ours), tuple(theirs), goal, self.slow)
        self.comparisons.append(made)
        print(made.line(), flush=True)

    def verdict(self, line: str, reached: bool) -> None:  # noqa: FBT001  the line says what it means
        """Keep and print a line about ours alone, with its verdict."""
        self.verdicts.append((line, reached))
        print(line, flush=True)

    # Programs ---------------------------------------------------------------------------------------------------------

    def server(self, folder: Path, *options: str) -> ServerProcess:
        """A longshored of the tree, not yet started."""
        return self.measured(ServerProcess(folder, *options, environment=self.environment()))

    def floor(self, folder: Path, *, port: bool = False) -> FloorServer:
        """The floor, not yet started."""
        return FloorServer(folder, self.environment(), port=port)

    def worker(self, server: ServerProcess, *options: str, **more: dict[str, str] | Sequence[str]) -> WorkerProcess:
        """A longshore-worker of the tree, not yet started."""
        return self.measured(WorkerProcess(server, *options, **more))  # type: ignore[arg-type]

    def client(self, *argv: str, environment: Mapping[str, str] | None = None, log: Path | None = None) -> Talker:
        """A module of the bench that is a client (`MODULE ARGUMENT…`), with the tree's packages; not yet started."""
        talker = Talker(self.tree.python, "-m", *argv, environment=environment, log=log)
        self._programs.append(talker)
        return talker

    def measured(self, process: Started) -> Started:
        """Give a process the interpreter of the tree, and count its CPU as ours."""
        process.argv[0] = self.tree.python
        self._programs.append(process)
        return process

    def cpu(self) -> float:
        """CPU seconds so far of all programs of ours, of their children, and of all commands that have ended."""
        ended = os.times()
        live = sum(family_cpu(each.pid) for each in self._programs if each.running)
        return live + ended.children_user + ended.children_system

    def environment(self) -> dict[str, str]:
        """Return the environment that makes a process's syncs as slow as the row says: ours and the peers' brokers'."""
        return slowed(self.slow, self.folder)


def installed(*parts: str) -> None:
    """See to it that these system packages are here (scripts/system-packages). Raises CalledProcessError."""
    subprocess.run([ROOT / "scripts" / "system-packages", *parts], check=True, env={**os.environ, "CI": "true"})


def slowed(microseconds: int, folder: Path) -> dict[str, str]:
    """Environment variables that slow each sync down. Builds the shim in `folder`. Raises CalledProcessError."""
    if not microseconds:
        return {}
    shim = folder / "slowsync.so"
    if not shim.exists():
        installed("cc")
        source = ROOT / "bench" / "support" / "slowsync.c"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(shim), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(shim), SLOWSYNC: str(microseconds)}


Measure = Callable[[Run], Awaitable[None]]
Ours = Callable[[Run, AsyncExitStack], Awaitable[Mapping[str, Contender]]]
"""Opens our side on the stack. A contender's work is the same each time, so that its CPU can be compared too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table.

    `rounds`: those that count, unless the caller says otherwise. `durable`: a slow disk would show in it. `unit`: of
    the figures of `ours`. `ours` None: it looks inside, and is compared by running each version's own bench. `pairs`:
    rounds in which two versions of ours are compared; fewer than four have no warm-up. `named`: it takes long, and is
    measured only when its name is given.
    """

    name: str
    unit: str
    measure: Measure
    ours: Ours | None = None
    rounds: int = 5
    durable: bool = False
    pairs: int = 7
    named: bool = False

    def run(self, *, rounds: int, slow: int = 0, minutes: float = 0.0) -> Run:
        """Measure it, and return what was found."""
        with tempfile.TemporaryDirectory(prefix="longshore-") as folder:
            run = Run(self.name, Path(folder), rounds or self.rounds, slow if self.durable else 0, minutes)
            asyncio.run(self._measured(run))
        return run

    async def _measured(self, run: Run) -> None:
        await self.measure(run)
        if not run.comparisons and not run.verdicts:
            raise AssertionError(f"{run.row} has compared nothing")


def record(run: Run) -> dict[str, object]:
    """A row's figures as JSON."""
    return {
        "row": run.row,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()},
        "load": [round(each, 2) for each in run.loads],
        "comparisons": [
            asdict(each)
            | {
                "ratio": each.ratio.median,
                "spread": [each.ratio.least, each.ratio.most],
                "reached": each.reached,
                "line": each.line(),
            }
            for each in run.comparisons
        ],
        "verdicts": [{"line": line, "reached": reached} for line, reached in run.verdicts],
    }
