"""Every row of the table of docs/performance.md, one after the other, each in a process of its own.

    make bench       python -m bench [--out DIR] [ROW…]

Prints the lines of the rows as they come, then the table; writes DIR/bench.json and DIR/bench.svg (DIR: build/bench).
Durable rows are measured a second time with a millisecond more for each sync. Exit code 0 when every goal is reached.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench.plot import svg
from bench.rows import ROOT, SLOWSYNC

ROWS: Final = {
    "upload": True,
    "uploads16": False,
    "small-uploads": True,
    "tasks": True,
    "latency": True,
    "cancel": False,
    "watchers": False,
    "deliver-large": False,
    "deliver-small": False,
    "claim": False,
    "memory": False,
    "floods": False,
    "recovery": False,
}
"""Names of rows, and whether a slow disk would show in them."""

LIMIT: Final = 300.0
"""Seconds for one row, its peers' installation not counted among them once they are there."""

FAREWELL: Final = 30.0
"""Seconds for a row that took too long to clear away what it has started."""


def measure(name: str, out: Path, slow: int) -> dict[str, Any]:
    """One row in its own process; what it wrote, or why there is nothing."""
    path = out / f"{name}{f'-{slow}us' if slow else ''}.json"
    path.unlink(missing_ok=True)
    argv = [sys.executable, "-m", f"bench.{name.replace('-', '_')}", "--json", str(path)]
    environment = dict(os.environ) | ({SLOWSYNC: str(slow)} if slow else {})
    with subprocess.Popen(argv, cwd=ROOT, env=environment) as process:
        try:
            ended = process.wait(LIMIT)
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
    return {"row": name, "comparisons": [], "failed": why}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description="Every row, beside its peers.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"some of {', '.join(ROWS)} [all]")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="where figures and plot are kept")
    parser.add_argument("--slow", type=int, default=1000, help="microseconds more for each sync, for durable rows")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    found = []
    for name in options.rows or ROWS:
        for slow in (0, options.slow) if ROWS[name] and options.slow else (0,):
            found.append(measure(name, options.out, slow))
    comparisons = [each for one in found for each in one["comparisons"]]
    (options.out / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "bench.svg").write_text(svg(comparisons))
    failed = [one["failed"] for one in found if "failed" in one]
    print(f"\n{len(found)} rows in {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f}")
    print(*(each["line"] for each in comparisons), *failed, sep="\n")
    sys.exit(1 if failed or any(each["reached"] is False for each in comparisons) else 0)


if __name__ == "__main__":
    main()
