"""Every statement of the store, found in its modules, and how a database would carry each out."""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import longshore.server.store
from longshore.server.model.values import State
from longshore.server.store.postgres import link as postgres_link
from longshore.server.store.protocol import TaskFilter
from longshore.server.store.reads import lists
from longshore.server.store.sql.dialect import Dialect
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Among, Bulk, Each, Statement
from longshore.server.store.tables.ids import id_ranges

PACKAGE: Final = "longshore.server.store"
What = Statement | Among | Each | Bulk


def in_modules() -> dict[str, What]:
    """Every statement that a module of the store keeps, by its module and name."""
    found: dict[str, What] = {}
    for info in pkgutil.walk_packages(longshore.server.store.__path__, f"{PACKAGE}."):
        if ".migrations.versions" in info.name or info.name.endswith(".env"):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            for part, what in _inside(value):
                if what not in found.values():
                    found[f"{info.name.removeprefix(f'{PACKAGE}.')}.{name}{part}"] = what
    return found


def _inside(value: object) -> Iterator[tuple[str, What]]:
    if isinstance(value, What):
        yield "", value
    elif isinstance(value, Mapping):
        for key, each in list(value.items()):
            for part, what in _inside(each):
                yield f"[{key}]{part}", what
    elif isinstance(value, (tuple, list)):
        for number, each in enumerate(value):
            for part, what in _inside(each):
                yield f"[{number}]{part}", what


def unknown() -> list[str]:
    """Statements of this process that no module keeps where `in_modules` looks. To be called in a fresh process."""
    known: set[int] = set()
    for what in in_modules().values():
        known.add(id(what))
        if isinstance(what, Among):
            known |= {id(each) for each in (*what._statements.values(), what.any)}
        elif isinstance(what, (Each, Bulk)):
            known.add(id(what.one))
    return [repr(each) for each in gc.get_objects() if isinstance(each, What) and id(each) not in known]


FILTERS: Final[Mapping[str, TaskFilter]] = {
    "nothing": TaskFilter(),
    "request": TaskFilter(request_id="1"),
    "instance": TaskFilter(instance="i7"),
    "label": TaskFilter(labels={"team": "t3"}),
    "live": TaskFilter(states=frozenset(state for state in State if not state.terminal)),
    "queued": TaskFilter(states=frozenset({State.QUEUED})),
    "running": TaskFilter(states=frozenset({State.RUNNING})),
    "settling": TaskFilter(states=frozenset({State.SETTLING})),
    "failed": TaskFilter(states=frozenset({State.FAILED})),
    "succeeded": TaskFilter(states=frozenset({State.SUCCEEDED})),
    "creator": TaskFilter(creator="alice"),
    "queue": TaskFilter(queue="nightly"),
    "target": TaskFilter(target="north"),
    "kinds": TaskFilter(kinds=frozenset({"report", "file_push"})),
    "created": TaskFilter(created_after=1.0, created_before=4e9),
}


def of_lists() -> dict[str, Statement]:
    """The statements of a list by each filter, and by each two: one for each walk, with and without a page before, and
    the short look that chooses the walk."""
    found: dict[str, Statement] = {}
    for (name, one), (other_name, other) in itertools.product(FILTERS.items(), repeat=2):
        parts = list(lists.parts_of(one))
        rest = [part.condition for part in lists.parts_of(other)]
        rest += lists._of_time(other)
        for number, walk in enumerate(walk for part in parts for walk in part.walks):
            for page, before in (("first", None), ("next", 5_000)):
                label = f"list {name} {number}, {page} page, {other_name}"
                found[label] = lists.weighed(walk, rest, None, before, 64)
                found[f"{label}, look"] = lists.counted(walk, None, before)
    within = next(id_ranges("D3T8"))
    found["list beginning of an id"] = lists.weighed(lists.Walk(), (), within, None, 64)
    found["list all"] = lists.weighed(lists.Walk(), (), None, None, 64)
    return found


def text_of(what: What, dialect: Dialect) -> tuple[str, Mapping[str, Any]]:
    """The text that the database gets, and the constants in it."""
    if dialect.shared:
        if isinstance(what, Each):
            return postgres_link.compile_each(what, dialect)
        if isinstance(what, Bulk):
            return postgres_link._compile_bulk(what, dialect, exactly=False)
        if isinstance(what, Among):
            sql, constants = what.any.sql(dialect)
            return postgres_link._with_array(sql), constants
    if isinstance(what, Among):
        return what._statements[4].sql(dialect)
    return (what if isinstance(what, Statement) else what.one).sql(dialect)


# Plans ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """A part of a plan that may take longer when a table grows: what it does, with which table or index."""

    does: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.does} {self.where}".strip()


def on_sqlite(link: Link, what: What, growing: frozenset[str]) -> list[Finding]:
    """Find scans of growing tables, and sorts."""
    sql, constants = text_of(what, link.dialect)
    names = set(re.findall(r"(?<![:\w]):(\w+)", sql))
    link._cursor.execute(f"EXPLAIN QUERY PLAN {sql}", dict.fromkeys(names, 1) | dict(constants))
    found = []
    for row in link._cursor.fetchall():
        step = row[-1]
        if match := re.match(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?", step):
            table, index = match.groups()
            if table in growing:
                found.append(Finding("scans", index or table))
        elif step.startswith("USE TEMP B-TREE") and "RIGHT PART" not in step:
            found.append(Finding("sorts"))
    return found


def on_postgres(link: Link, what: What, growing: frozenset[str]) -> list[Finding]:
    """Find the same in the plan for values that are not known. A scan under a limit that leaves out no row is none."""
    return list(_findings(_planned(link, what), growing, limited=False))


def indexes_on_postgres(link: Link, what: What) -> set[str]:
    """Return the names of the indexes in the plan."""

    def names(node: Mapping[str, Any]) -> Iterator[str]:
        if "Index Name" in node:
            yield node["Index Name"]
        for child in node.get("Plans", ()):
            yield from names(child)

    return set(names(_planned(link, what)))


_NUMBERS: Final = frozenset({"ticks", "patience"})
"""Parameters whose type follows from the driver's value alone."""


def _planned(link: Link, what: What) -> Mapping[str, Any]:
    sql, _ = text_of(what, link.dialect)
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", sql)))
    for number, name in enumerate(names, start=1):
        sql = sql.replace(f"%({name})s", f"${number}::float8" if name in _NUMBERS else f"${number}")
    sql = sql.replace("%%", "%")
    cursor = link._cursor
    cursor.execute(f"PREPARE explained AS {sql}")
    nothing = f"({', '.join(['NULL'] * len(names))})" if names else ""
    cursor.execute(f"EXPLAIN (FORMAT JSON) EXECUTE explained{nothing}")
    ((plan,),) = cursor.fetchall()
    cursor.execute("DEALLOCATE explained")
    root: Mapping[str, Any] = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
    return root


def _findings(node: Mapping[str, Any], growing: frozenset[str], *, limited: bool) -> Iterator[Finding]:
    kind, table = node["Node Type"], node.get("Relation Name", "")
    if table in growing:
        if kind == "Seq Scan":
            yield Finding("scans", table)
        elif kind.startswith("Index") and "Index Cond" not in node and ("Filter" in node or not limited):
            yield Finding("scans", node["Index Name"])
    if kind == "Sort":
        yield Finding("sorts")
    for child in node.get("Plans", ()):
        yield from _findings(child, growing, limited=kind == "Limit" or (limited and kind in _PASSES))


_PASSES: Final = frozenset({"LockRows", "Subquery Scan", "Incremental Sort", "Result", "Nested Loop"})
"""Nodes that ask for no more rows than they are asked for."""
