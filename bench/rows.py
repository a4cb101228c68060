"""Every row of the table shares this module: turns, comparisons, goals, and how they are printed and kept.

A row is a module with `async def measure(run: Run) -> None` and `main = row("name", measure, durable=…)`. It measures
ours and each peer in turns (`Run.turns`), and says with `Run.compare` what came of it. Each comparison is one line:

    ROW: ours X, PEER Y, ratio R [min..max], goal G: reached|missed

X and Y are medians over the rounds, R is X / Y, min and max are the extremes of the rounds' own ratios. No absolute
time decides anything but where DESIGN.md names one (a latency in milliseconds, a memory in bytes).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
SLOWSYNC: Final = "SLOWSYNC_US"


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal bounds the ratio of medians or, with `ours`, our own median in the unit of the comparison."""

    at_least: float | None = None
    at_most: float | None = None
    ours: bool = False

    def reached(self, ours: float, ratio: float) -> bool:
        value = ours if self.ours else ratio
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def text(self, unit: str) -> str:
        sign, value = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{sign} {value:g} {unit}" if self.ours else f"{sign} {value:g}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ours against one peer, a figure a round each. `slow`: microseconds that each sync took longer."""

    row: str
    what: str
    unit: str
    peer: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    goal: Goal | None = None
    slow: int = 0

    @property
    def ratio(self) -> float:
        below = statistics.median(self.theirs)
        return statistics.median(self.ours) / below if below else float("inf")

    @property
    def ratios(self) -> list[float]:
        return [one / other for one, other in zip(self.ours, self.theirs, strict=False) if other]

    @property
    def reached(self) -> bool | None:
        return None if self.goal is None else self.goal.reached(statistics.median(self.ours), self.ratio)

    def line(self) -> str:
        ratios = self.ratios or [self.ratio]
        slow = f" (sync +{self.slow / 1000:g} ms)" if self.slow else ""
        what = f" {self.what}" if self.what else ""
        said = (
            f"{self.row}{what}{slow}: ours {number(statistics.median(self.ours))} {self.unit}, "
            f"{self.peer} {number(statistics.median(self.theirs))} {self.unit}, "
            f"ratio {self.ratio:.2f} [{min(ratios):.2f}..{max(ratios):.2f}]"
        )
        if self.goal is None:
            return f"{said}, no goal"
        return f"{said}, goal {self.goal.text(self.unit)}: {'reached' if self.reached else 'missed'}"


def number(value: float) -> str:
    """Three digits that count, with separators."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


Contender = Callable[[], Awaitable[float]]
"""Runs its load once and answers its figure."""


@dataclass(slots=True)
class Run:
    """One row being measured. `folder`: an own directory, removed afterwards. `slow`: see Comparison."""

    row: str
    folder: Path
    rounds: int
    slow: int = 0
    comparisons: list[Comparison] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)

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
        source = ROOT / "bench" / "slowsync.c"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(shim), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(shim), SLOWSYNC: str(microseconds)}


Measure = Callable[[Run], Awaitable[None]]


def row(name: str, measure: Measure, *, rounds: int = 5, durable: bool = False) -> Callable[[], None]:
    """The `main` of a row's module: exit code 0 when every goal is reached, 1 when one is missed.

    `durable`: $SLOWSYNC_US slows each sync down; the others refuse it, since it would change nothing.
    """

    def main() -> None:
        parser = argparse.ArgumentParser(prog=f"bench.{name}")
        parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds that count [{rounds}]")
        parser.add_argument("--json", type=Path, help="write the figures there too")
        options = parser.parse_args()
        slow = int(os.environ.pop(SLOWSYNC, "0") or 0)
        if slow and not durable:
            parser.error(f"{name} syncs nothing: run it without {SLOWSYNC}")
        with tempfile.TemporaryDirectory(prefix="longshore-") as folder:
            run = Run(name, Path(folder), options.rounds, slow)
            asyncio.run(_measured(run, measure))
        if options.json:
            options.json.write_text(json.dumps(record(run), indent=1) + "\n")
        sys.exit(0 if all(each.reached is not False for each in run.comparisons) else 1)

    return main


async def _measured(run: Run, measure: Measure) -> None:
    await measure(run)
    if not run.comparisons:
        raise AssertionError(f"{run.row} has compared nothing")


def record(run: Run) -> dict[str, object]:
    """A row's figures as JSON."""
    return {
        "row": run.row,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()},
        "load": [round(each, 2) for each in run.loads],
        "comparisons": [
            asdict(each) | {"ratio": each.ratio, "ratios": each.ratios, "reached": each.reached, "line": each.line()}
            for each in run.comparisons
        ],
    }
