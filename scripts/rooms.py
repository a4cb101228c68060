"""Print how the code is laid out, measured from its own imports.

A room is what a folder holds: a module or a sub-package. An arrow points from a room to another room of the same folder
that it imports. Floors are the longest way down the arrows. A circle is a set of rooms that can all reach each other.

Usage: python -m scripts.rooms [FOLDER]   (the tree to measure; the current one by default)
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOTS: Final = ("server", "worker", "client", "protos")
"""Folders at the top of the tree that hold a part of the package `longshore`."""
_LEFT_OUT: Final = ("_pb2", "migrations/versions")

Graph = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Layout:
    """The figures of one folder."""

    folder: str
    entries: int
    """Modules and sub-packages, without `__init__`."""
    arrows: int
    floors: int
    circles: list[list[str]]


def modules(tree: Path) -> dict[str, Path]:
    """Return every module of ours by its dotted name. A package has the name of its folder."""
    found = {}
    for root in ROOTS:
        for file in sorted((tree / root / "longshore").rglob("*.py")):
            if any(part in file.as_posix() for part in _LEFT_OUT):
                continue
            parts = file.relative_to(tree / root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def arrows(known: Mapping[str, Path]) -> dict[str, frozenset[str]]:
    """Map each module to the others that it imports."""
    return {name: frozenset(_imported(file, known)) - {name} for name, file in known.items()}


def _imported(file: Path, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(), filename=str(file))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from filter(None, (_known(name, known) for name in names))


def _known(name: str, known: Mapping[str, Path]) -> str:
    """Return the module of a dotted name. An empty text means that it is none of ours."""
    parts = name.split(".")
    return next((module for end in range(len(parts), 0, -1) if (module := ".".join(parts[:end])) in known), "")


def within(folder: str, graph: Graph) -> dict[str, frozenset[str]]:
    """Return the arrows between the rooms of one package."""
    rooms: dict[str, set[str]] = {}
    for name, imported in graph.items():
        room = _room(folder, name)
        if room is not None:
            rooms.setdefault(room, set()).update(filter(None, (_room(folder, other) for other in imported)))
    return {room: frozenset(others - {room}) for room, others in rooms.items()}


def _room(folder: str, name: str) -> str | None:
    """Return the room of a package that holds a module. None means that the module is elsewhere."""
    return name[len(folder) + 1 :].partition(".")[0] if name.startswith(f"{folder}.") else None


def reach(graph: Graph) -> dict[str, frozenset[str]]:
    """Return, for each room, the rooms that it can reach."""
    found: dict[str, frozenset[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            room = waiting.pop()
            if room not in seen:
                seen.add(room)
                waiting.extend(graph.get(room, ()))
        found[start] = frozenset(seen)
    return found


def circles(graph: Graph) -> list[list[str]]:
    """Return the sets of rooms that can all reach each other, each sorted."""
    reached = reach(graph)
    found = {tuple(sorted({other for other in reached[room] if room in reached.get(other, ())})) for room in graph} - {
        ()
    }
    return sorted(list(circle) for circle in found)


def floors(graph: Graph) -> int:
    """Count the rooms on the longest way down. A circle counts as one."""
    reached = reach(graph)
    depth: dict[str, int] = {}
    # A room that reaches fewer rooms is deeper, and the rooms of one circle reach the same rooms.
    for room in sorted(graph, key=lambda name: len(reached[name] | {name})):
        below = [depth[other] for other in reached[room] if room not in reached[other]]
        depth[room] = 1 + max(below, default=0)
    return max(depth.values(), default=0)


def layouts(tree: Path) -> list[Layout]:
    """Return the figures of every folder with modules."""
    known = modules(tree)
    graph = arrows(known)
    folders = sorted({file.parent for file in known.values()})
    found = []
    for folder in folders:
        rooms = within(".".join(folder.relative_to(tree).parts[1:]), graph)
        found.append(
            Layout(
                folder=folder.relative_to(tree).as_posix(),
                entries=len(rooms),
                arrows=sum(len(others) for others in rooms.values()),
                floors=floors(rooms),
                circles=circles(rooms),
            )
        )
    return found


def main(tree: Path) -> None:
    known = modules(tree)
    graph = arrows(known)
    print(f"{'folder':<44} entries arrows floors circles")
    largest = 0
    for one in layouts(tree):
        largest = max(largest, one.entries)
        names = "; ".join(" ".join(circle) for circle in one.circles) or "none"
        print(f"{one.folder:<44} {one.entries:7} {one.arrows:6} {one.floors:6} {names}")
    between = "; ".join(" ".join(circle) for circle in circles(graph)) or "none"
    print(f"{len(graph)} modules, {sum(map(len, graph.values()))} arrows, largest folder {largest}, circles: {between}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
