"""This bench compares allocator settings of a server that takes large uploads: docs/decisions/0005-malloc.md.

    python -m bench.studies.malloc [ROUNDS]

Uploads 2 GiB, four files one after the other and four at once, to a server as it is and to one with
`--no-malloc-tuning`, in turns (A B A B). Prints CPU seconds a GiB and peak resident memory of both, and their ratio
with its spread. Absolute figures are the machine's; the ratios are ours.
"""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.support.figures import GIB, MIB, Ratio, spread
from bench.support.processes import cpu
from tests.support.servers.stage import Stage, staged

FILE: Final = 256 * MIB
FILES: Final = 8


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds a GiB, and peak resident MiB."""

    cpu: float
    peak: float


def measure(*options: str) -> Cost:
    """One server, one load."""
    with tempfile.TemporaryDirectory(prefix="longshore-") as name:
        root = Path(name)
        large = root / "large"
        with large.open("wb") as file:
            file.truncate(FILE)
        with staged(root / "stage", *options) as stage:
            before = cpu(stage.server.pid)
            load(stage, large)
            spent = cpu(stage.server.pid) - before
            return Cost(spent * GIB / (FILE * FILES), stage.server.resident(peak=True) / MIB)


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
        ours = [getattr(one, what) for one in tuned]
        theirs = [getattr(one, what) for one in plain]
        print(f"malloc {what}: tuned {spread(ours)} {unit}, default {spread(theirs)}, ratio {Ratio.of(ours, theirs)}")


if __name__ == "__main__":
    main()
