"""Two versions of Longshore beside each other in one run: this tree and another checkout, each with its own .venv.

    python -m bench --against PATH [ROW…]

The load, the harness and the order are this tree's; servers, workers and clients are run once by this tree's
interpreter and once by PATH/.venv's; the few calls that the harness makes by itself are this tree's. Both are up all
the time and take turns (A B, B A), with the same work each. One line for each figure of ours, peers being left out:

    ROW NAME: after X, before Y, after/before R [min..max], CPU C [min..max]: kept|unsure|worse

R is the median of the pairs' ratios; where less is better (milliseconds, KB) it is before/after, so that a figure below
1 is always worse, and so is C, the CPU time of all programs of ours. A figure below KEPT gets as many rounds again
before that is said; `unsure` means that the pairs contradict each other or are few, and more are needed. A row that
looks inside the store has no client to share: of these, each tree runs its own bench.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.support.figures import Ratio, number
from bench.support.processes import ROOT
from bench.support.run import Contender, Row, Run, Tree

KEPT: Final = 0.97
"""A version keeps the speed of the one before it with at least this share of it."""
LESS: Final = ("ms", "s", "KB each", "MiB")
"""Units of which less is better."""


@dataclass(slots=True)
class Pairs:
    """Figures and CPU seconds of one contender, a pair a round."""

    figures: dict[str, list[float]] = field(default_factory=lambda: {"after": [], "before": []})
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"after": [], "before": []})

    def speed(self, unit: str) -> Ratio:
        """How many times as fast the version after is."""
        return _of(self._pairs(unit))

    def _pairs(self, unit: str) -> list[float]:
        up, down = ("before", "after") if unit in LESS else ("after", "before")
        return _paired(self.figures[up], self.figures[down])

    def verdict(self, unit: str) -> str:
        """`unsure`: the median says worse, while a quarter of the pairs and more say that it is not, or few say so."""
        pairs = sorted(self._pairs(unit))
        if statistics.median(pairs) >= KEPT:
            return "kept"
        return "worse" if len(pairs) > 3 and pairs[len(pairs) * 3 // 4] < 1 else "unsure"

    @property
    def cpu(self) -> Ratio:
        """How many times as much CPU the version before takes."""
        return _of(_paired(self.seconds["before"], self.seconds["after"]))


def _paired(up: list[float], down: list[float]) -> list[float]:
    return [one / other for one, other in zip(up, down, strict=True) if other] or [1.0]


def _of(ratios: list[float]) -> Ratio:
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


async def against(row: Row, before: Path, rounds: int = 0) -> list[str]:
    """Compare a row's two versions, print, and return the lines of what is not kept.

    `rounds` 0: as many as the row has pairs.
    """
    rounds = rounds or row.pairs
    if row.ours is None:
        return await asyncio.to_thread(_inside, row, before, rounds)
    found: dict[str, Pairs] = {}
    async with AsyncExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="longshore-")))
        runs, contenders = dict[str, Run](), dict[str, dict[str, Contender]]()
        for name, tree in (("after", Tree(ROOT)), ("before", Tree(before))):
            folder = root / name
            folder.mkdir()
            runs[name] = Run(row.name, folder, rounds, tree=tree)
            contenders[name] = dict(await row.ours(runs[name], stack))
        found = {name: Pairs() for name in contenders["after"]}
        await _turns(runs, contenders, found, rounds, warm=1 if row.pairs > 3 else 0)
        if again := [name for name, pairs in found.items() if pairs.speed(row.unit).median < KEPT]:
            runs["after"].say(f"{row.name}: as many rounds again for {', '.join(again)}")
            await _turns(runs, contenders, {name: found[name] for name in again}, rounds)
    return [line for name, pairs in found.items() if (line := _said(row, name, pairs))]


async def _turns(
    runs: dict[str, Run],
    contenders: dict[str, dict[str, Contender]],
    found: dict[str, Pairs],
    rounds: int,
    *,
    warm: int = 0,
) -> None:
    for index in range(warm + rounds):
        for name, pairs in found.items():
            for version in ("after", "before")[:: 1 if index % 2 == 0 else -1]:
                run = runs[version]
                began = run.cpu()
                figure = await contenders[version][name]()
                spent = run.cpu() - began
                run.say(f"{run.row}: {version} {name} {number(figure)}, CPU {spent:.2f} s")
                if index >= warm:
                    pairs.figures[version].append(figure)
                    pairs.seconds[version].append(spent)


def _said(row: Row, name: str, pairs: Pairs) -> str:
    """Print a line; return it unless it says `kept`."""
    speed, verdict = pairs.speed(row.unit), pairs.verdict(row.unit)
    after, before = (number(statistics.median(pairs.figures[which])) for which in ("after", "before"))
    figures = f"after {after} {row.unit}, before {before}, after/before {speed}, CPU {pairs.cpu}"
    line = f"{row.name} {name}: {figures}: {verdict}"
    print(line, flush=True)
    return "" if verdict == "kept" else line


def _inside(row: Row, before: Path, rounds: int) -> list[str]:
    """Run each tree's own bench alternately, and compare the figures that it has as its own."""
    found: dict[str, Pairs] = {}
    with tempfile.TemporaryDirectory() as folder:
        for index in range(rounds):
            for version in ("after", "before")[:: 1 if index % 2 == 0 else -1]:
                tree = Tree(ROOT) if version == "after" else Tree(before)
                path = Path(folder) / "figures.json"
                argv = [tree.python, "-m", "bench", "--here", str(path), "--rounds", "2", row.name]
                done = subprocess.run(argv, cwd=tree.root, check=False, stdout=subprocess.DEVNULL)
                if done.returncode not in (0, 1) or not path.exists():
                    line = f"{row.name}: not comparable: {tree.root} has no such row, or it failed"
                    print(line, flush=True)
                    return [line]
                for one in json.loads(path.read_text())["comparisons"]:
                    pairs = found.setdefault(one["what"], Pairs())
                    pairs.figures[version].append(statistics.median(one["ours"]))
                path.unlink()
    return [line for name, pairs in found.items() if (line := _said(row, name, pairs))]
