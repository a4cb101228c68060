"""This study shows how a database finds the rows of a claim: its statements' plans, shortened to what decides.

    python -m bench.studies.claim_plans [--only sqlite|postgres] [--many N] [--stale] [--dir DIR]

The long queue is that of bench/rows/claim.py.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.rows.claim import MANY, Make, SQLiteMake, fill, postgres
from bench.support.backlog import BASE
from longshore.server.store.handlers.order import claims, ready
from longshore.server.store.postgres.connection import connect
from longshore.server.store.postgres.dialect import PostgresDialect
from longshore.server.store.postgres.link import PLANNER, compile_each
from longshore.server.store.sql.dialect import Dialect
from longshore.server.store.sql.statement import Each
from longshore.server.store.sqlite.dialect import SQLiteDialect
from longshore.server.store.transaction import counters, loaded_tasks, reads

# A bench may look inside: these are the statements of a claim, in their order.
_STATEMENTS: Final[Sequence[tuple[str, Each, Mapping[str, Any]]]] = (
    ("what a session holds", reads._HELD, {"session_id": "session-0"}),
    ("room of a target", counters._READ, {"of": "target_running", "called": "north"}),
    (
        "what must be settled",
        claims._UNSETTLED,
        {"target": "north", "kind": "file_push", "now": 2e9, "most": 8},
    ),
    ("what is ready", claims._READY, {"target": "north", "taker": "file_push", "most": 8}),
    (
        "the same on the target of the saturated instance",
        claims._READY,
        {"target": "west", "taker": "file_push", "most": 8},
    ),
    ("which takers an instance with a long queue waits for", ready._TAKERS, {"key": "east/busy/"}),
    ("the ready tasks of an instance", ready._READY, {"key": "north/i1/"}),
    (
        "the next tasks of the saturated instance",
        ready._BEST,
        {"key": "west/full/", "taker": "file_push", "room": 4},
    ),
)


def on_sqlite(path: Path) -> list[tuple[str, list[str]]]:
    dialect = SQLiteDialect(path)
    with sqlite3.connect(path) as connection:
        return [
            (title, [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)])
            for title, sql, parameters in _on_sqlite(dialect)
        ]


def on_postgres(url: str) -> list[tuple[str, list[str]]]:
    """Explain with ANALYZE: rows and buffers as they were, without times. Rolled back, because claims lock rows."""
    dialect = PostgresDialect(url)
    found = []
    with connect(url) as connection:
        connection.execute(PLANNER.encode())
        for title, sql, parameters in _on_postgres(dialect):
            with connection.transaction(force_rollback=True):
                explain = f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) {sql}"
                rows = connection.execute(explain.encode(), parameters).fetchall()
            lines = itertools.takewhile(lambda line: not line.startswith("Planning"), (row[0] for row in rows))
            found.append((title, _short(list(lines))))
    return found


def _on_sqlite(dialect: Dialect) -> list[tuple[str, str, dict[str, Any]]]:
    result = []
    for title, what, parameters in _STATEMENTS:
        sql, constants = what.one.sql(dialect)
        result.append((title, sql, {**constants, **parameters}))
    ((load, names, values),) = loaded_tasks._LOAD.split([7, 8, 500, 501])
    sql, constants = load.sql(dialect)
    parameters = dict(zip(names, values, strict=True))
    return [*result, ("the tasks themselves, by their numbers", sql, {**constants, **parameters})]


def _on_postgres(dialect: Dialect) -> list[tuple[str, str, dict[str, Any]]]:
    """There what is ready comes with the whole task, and a statement is asked for all that a claim wants to know."""
    result = []
    for title, what, parameters in _STATEMENTS:
        whole = {claims._READY: claims._READY_WHOLE, claims._UNSETTLED: claims._UNSETTLED_WHOLE}.get(what, what)
        sql, constants = compile_each(whole, dialect)
        result.append((title, sql, {**constants, "given": json.dumps([{**parameters, "nth": 0}])}))
    return result


def _short(lines: Sequence[str]) -> list[str]:
    """Without types, and buffers only where they are summed up: at the top."""
    found = []
    for number, line in enumerate(lines):
        if number < 2 or not line.lstrip().startswith("Buffers"):
            plain = re.sub(r"::\w+( precision)?(\[\])?", "", line)
            found.append(re.sub(r"\(actual rows=(\d+) loops=(\d+)\)", _rows, plain))
    return found


def _rows(match: re.Match[str]) -> str:
    rows, loops = match.groups()
    return f"({rows} rows)" if loops == "1" else f"({rows} rows, {loops} times)"


def show(make: Make, many: int) -> None:
    asyncio.run(fill(make, "many", many // BASE - 1))
    for title, steps in _plans(make):
        print(f"\n{make.name}, {many:,} queued: {title}", *("  " + step for step in steps), sep="\n")


def _plans(make: Make) -> Sequence[tuple[str, list[str]]]:
    return on_sqlite(make.path("many")) if isinstance(make, SQLiteMake) else on_postgres(make.url("many"))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.studies.claim_plans", description="How a database finds what is claimed."
    )
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
