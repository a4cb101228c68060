"""The plans of a claim's statements with a long queue, as bench/claim.py makes it.

python -m bench.claim_plans [--only sqlite|postgres] [--many N] [--stale] [--dir DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from bench.backlog import BASE
from bench.claim import MANY, Make, SQLiteMake, fill, postgres


def show(make: Make, many: int) -> None:
    asyncio.run(fill(make, "many", many // BASE - 1))
    for title, steps in make.explain("many"):
        print(f"\n{make.name}, {many:,} queued: {title}", *("  " + step for step in steps), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.claim_plans", description="How a database finds what is claimed.")
    parser.add_argument("--many", type=int, default=MANY, help="tasks in the queue")
    parser.add_argument("--only", choices=("sqlite", "postgres"))
    parser.add_argument("--stale", action="store_true", help="PostgreSQL: leave it with the statistics it has")
    parser.add_argument("--dir", help="where the SQLite file lies for a while [$TMPDIR]")
    options = parser.parse_args()
    if options.only in (None, "sqlite"):
        with tempfile.TemporaryDirectory(prefix="longshore-", dir=options.dir) as folder:
            show(SQLiteMake(Path(folder)), options.many)
    if options.only in (None, "postgres"):
        with postgres(analyze=not options.stale) as make:
            show(make, options.many)


if __name__ == "__main__":
    main()
