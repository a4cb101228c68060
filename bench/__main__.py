"""Rows of the table of docs/performance.md, one after the other, each in a process of its own.

    python -m bench [ROW…]                  ours beside its peers; figures and plot go to DIR (build/bench)
    python -m bench --against PATH [ROW…]   ours beside the version in another checkout: bench/support/against.py

Two rows take long, and are measured only when they are named: `soak` (--minutes, 30 of them: does anything grow?) and
`backlog-full` (1,000,000 live and 10,000,000 finished tasks; `backlog` is its short form).

Prints the lines of the rows as they come, then the table. Durable rows are measured a second time with each sync slower
by --slow microseconds: 1000 when all rows are measured, not at all when rows are named. Exit code 0 when every goal is
reached, with --against when nothing became worse.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.support.against import against
from bench.support.figures import svg
from bench.support.processes import ROOT
from bench.support.run import Row, record

ROWS: Final = {
    "upload": "uploads",
    "uploads16": "uploads",
    "small-uploads": "uploads",
    "tasks": "tasks",
    "latency": "tasks",
    "pg": "pg",
    "cancel": "cancel",
    "watchers": "watchers",
    "deliver-large": "deliveries",
    "deliver-small": "deliveries",
    "claim": "claim",
    "backlog": "backlog",
    "backlog-full": "backlog",
    "memory": "deliveries",
    "floods": "floods",
    "recovery": "recovery",
    "soak": "soak",
}
"""Names of rows, each with its module in bench/rows, in the order of the table."""

LIMIT: Final = 600.0
"""Seconds for one row, its peers' installation not counted among them once they are there."""

FAREWELL: Final = 30.0
"""Seconds for a row that took too long to clear away what it has started."""


def row(name: str) -> Row:
    """The row of that name."""
    rows: Sequence[Row] = importlib.import_module(f"bench.rows.{ROWS[name]}").ROWS
    return next(each for each in rows if each.name == name)


def usual() -> list[str]:
    """The rows that are measured when none is named."""
    return [name for name in ROWS if not row(name).named]


def measure(name: str, out: Path, rounds: int, slow: int, minutes: float) -> dict[str, Any]:
    """One row in its own process; what it wrote, or why there is nothing."""
    path = out / f"{name}{f'-{slow}us' if slow else ''}.json"
    path.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "bench", "--here", str(path), "--rounds", str(rounds), "--slow", str(slow)]
    argv += ["--minutes", str(minutes), name]
    with subprocess.Popen(argv, cwd=ROOT) as process:
        try:
            ended = process.wait(None if row(name).named else LIMIT)
        except subprocess.TimeoutExpired:
            ended = -1
            # As Ctrl-C would: it ends its servers and removes its directories.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(FAREWELL)
            except subprocess.TimeoutExpired:
                process.kill()
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    why = f"{name}: not measured ({f'no end within {LIMIT:g} s' if ended == -1 else f'exit code {ended}'})"
    return {"row": name, "comparisons": [], "verdicts": [], "failed": why}


def measure_all(options: argparse.Namespace, slow: int) -> int:
    """The rows beside their peers. Returns the exit code."""
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    found = []
    for name in options.rows or usual():
        for each in (0, slow) if slow and row(name).durable else (0,):
            found.append(measure(name, options.out, options.rounds, each, options.minutes))
    comparisons = [each for one in found for each in one["comparisons"]]
    (options.out / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "bench.svg").write_text(svg(comparisons))
    failed = [one["failed"] for one in found if "failed" in one]
    print(f"\n{len(found)} rows in {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f}")
    said = [*comparisons, *(each for one in found for each in one["verdicts"])]
    print(*(each["line"] for each in said), *failed, sep="\n")
    return 1 if failed or any(each["reached"] is False for each in said) else 0


async def compare_all(options: argparse.Namespace) -> int:
    """The rows beside those of another checkout, in one event loop: gRPC keeps to the first that it meets.

    Returns the exit code.
    """
    began, worse = time.monotonic(), []
    for name in options.rows or usual():
        try:
            worse += await against(row(name), options.against.resolve(), options.rounds)
        except Exception as error:  # noqa: BLE001 - the other rows are measured all the same
            traceback.print_exc()
            worse.append(f"{name}: not compared: {error!r}")
    print(
        f"\n{time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f}; not kept: {len(worse)}", *worse, sep="\n"
    )
    return 1 if worse else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"some of {', '.join(ROWS)} [all]")
    parser.add_argument("--rounds", type=int, default=0, help="rounds that count [each row's own]")
    parser.add_argument("--minutes", type=float, default=0.0, help="how long the row soak runs [30]")
    parser.add_argument("--slow", type=int, help="microseconds more for each sync, in a second run of durable rows")
    parser.add_argument("--against", type=Path, metavar="PATH", help="a checkout with its .venv, instead of peers")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="where figures and plot are kept")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    slow = options.slow if options.slow is not None else 0 if options.rows else 1000
    if options.here:
        run = row(*options.rows).run(rounds=options.rounds, slow=slow, minutes=options.minutes)
        options.here.write_text(json.dumps(record(run), indent=1) + "\n")
        reached = [*(each.reached for each in run.comparisons), *(reached for _, reached in run.verdicts)]
        sys.exit(1 if False in reached else 0)
    sys.exit(asyncio.run(compare_all(options)) if options.against else measure_all(options, slow))


if __name__ == "__main__":
    main()
