"""This bench compares allocator settings of a server that takes large uploads: docs/decisions/0005-malloc.md.

    python bench/malloc.py [ROUNDS]

Uploads 2 GiB, four files one after the other and four at once, to a server as it is and to one with
`--no-malloc-tuning`, in turns (A B A B). Prints CPU seconds a GiB and peak resident memory of both, and their ratio
with its spread. Absolute figures are the machine's; the ratios are ours.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.servers.stage import Stage, staged

MIB = 1 << 20
FILE = 256 * MIB
FILES = 8
HERTZ = 100
"""Ticks a second in /proc/PID/stat."""


@dataclass(frozen=True, slots=True)
class Run:
    """CPU seconds a GiB, and peak resident MiB."""

    cpu: float
    peak: float


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / HERTZ


def measure(*options: str) -> Run:
    """One server, one load."""
    with tempfile.TemporaryDirectory(prefix="longshore-") as name:
        root = Path(name)
        large = root / "large"
        with large.open("wb") as file:
            file.truncate(FILE)
        with staged(root / "stage", *options) as stage:
            before = cpu_seconds(stage.server.pid)
            load(stage, large)
            spent = cpu_seconds(stage.server.pid) - before
            return Run(spent / (FILE * FILES / (1 << 30)), stage.server.resident(peak=True) / MIB)


def load(stage: Stage, large: Path) -> None:
    """Half of the files in turn, half at once. Nothing is delivered: the tasks are for later."""
    for _ in range(FILES // 2):
        stage.push(large, not_before=3600)
    with ThreadPoolExecutor(FILES // 2) as pool:
        list(pool.map(lambda _: stage.push(large, not_before=3600), range(FILES // 2)))


def main() -> None:
    """Measure in turns, and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    tuned, plain = [], []
    for _ in range(rounds):
        tuned.append(measure())
        plain.append(measure("--no-malloc-tuning"))
    for what, unit in (("cpu", "s/GiB"), ("peak", "MiB")):
        ours = [getattr(run, what) for run in tuned]
        theirs = [getattr(run, what) for run in plain]
        ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
        print(
            f"malloc {what}: tuned {statistics.median(ours):.2f} {unit}, "
            f"default {statistics.median(theirs):.2f} {unit}, "
            f"ratio {statistics.median(ratios):.2f} [{min(ratios):.2f}..{max(ratios):.2f}]"
        )


if __name__ == "__main__":
    main()
