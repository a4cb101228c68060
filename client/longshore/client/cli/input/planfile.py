"""Reads the file of a plan: TOML, one table `[[step]]` for each step. docs/plans.md describes it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from longshore.client.cli.input import checks
from longshore.client.cli.input.grammar import parse_duration
from longshore.client.errors import ConfigurationError
from longshore.client.values.specs import job_spec, parse_destination, push_spec
from longshore.contract import limits
from longshore.v1 import task_pb2

_DURATIONS: Final = frozenset({"not_before", "expire_after", "run_timeout", "stall_timeout"})
_TERMS: Final = {
    "queue": str, "priority": int, "labels": dict, "attempt_limit": int, "description": str, "after_any_end": bool,
    **dict.fromkeys(_DURATIONS, str),
}  # fmt: skip
_OF_STEP: Final = {"name": str, "after": list, "after_tasks": list}
_PUSH: Final = {
    "push": str, "to": str, "project": str, "mode": str, "mode_if_new": str, "uid": int, "gid": int,
    "create_parents": bool, "parents_mode": str, "in_place": bool, "if_exists": str, "when_stopped": str,
    "when_absent": str, "read_back": bool, "on_pending": str,
}  # fmt: skip
_JOB: Final = {
    "job": str, "arguments": dict, "file": str, "target": str, "instance": str, "project": str, "key": str,
    "access": str, "on_pending": str,
}  # fmt: skip
_NAMES: Final = {str: "a text", int: "a whole number", bool: "true or false", list: "a list", dict: "a table"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStep:
    """A step of a plan file. `file` has its bytes; None means that it has none. `after` has indexes of earlier
    steps."""

    name: str
    spec: task_pb2.TaskSpec
    file: Path | None
    after: tuple[int, ...]


def read(path: Path) -> list[FileStep]:
    """Read a plan. Names of files in it are relative to its folder. Raises ConfigurationError, which names the step."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the plan {path} cannot be read: {error}") from error
    try:
        said = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"the plan {path} is not TOML: {error}") from error
    tables = said.pop("step", None)
    if said or not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        wrong = f"; it has {', '.join(sorted(said))}" if said else ""
        raise ConfigurationError(f"the plan {path} has tables [[step]] and nothing else{wrong}")
    if not 1 <= len(tables) <= limits.MOST_STEPS:
        raise ConfigurationError(f"the plan {path} has {len(tables)} steps: give 1 to {limits.MOST_STEPS}")
    numbers: dict[str, int] = {}
    steps = []
    for number, table in enumerate(tables):
        where = f"step {number + 1}" + (f" ({table['name']})" if isinstance(table.get("name"), str) else "")
        try:
            steps.append(_step(table, numbers, path.parent))
        except ValueError as error:
            raise ConfigurationError(f"{where} of {path}: {error}") from error
        except ConfigurationError as error:
            raise ConfigurationError(f"{where} of {path}: {error.message}", reason=error.reason) from error
        if steps[-1].name:
            numbers[steps[-1].name] = number
    return steps


def _step(table: Mapping[str, Any], numbers: Mapping[str, int], folder: Path) -> FileStep:
    if ("push" in table) is ("job" in table):
        raise ValueError("give either `push` (a file) or `job` (a kind)")
    known = _PUSH if "push" in table else _JOB
    for key, value in table.items():
        kind = {**_OF_STEP, **_TERMS, **known}.get(key)
        if kind is None:
            raise ValueError(f"there is no {key!r} here")
        if type(value) is not kind:
            raise ValueError(f"{key} is no {_NAMES[kind].removeprefix('a ')}: give {_NAMES[kind]}")
    name = table.get("name", "")
    if name in numbers:
        raise ValueError("an earlier step has the same name")
    if len(name) > limits.LONGEST_STEP_NAME:
        raise ValueError(f"the name has more than {limits.LONGEST_STEP_NAME} characters")
    terms: dict[str, Any] = {key: _term(key, table[key]) for key in _TERMS if key in table}
    terms["after"] = table.get("after_tasks", [])
    given = {key: table[key] for key in known if key in table}
    spec, file = (_push if "push" in table else _job)(given, terms)
    after = tuple(dict.fromkeys(_index(each, numbers) for each in table.get("after", [])))
    return FileStep(name=name, spec=spec, file=None if file is None else folder / file, after=after)


def _index(name: object, numbers: Mapping[str, int]) -> int:
    if not isinstance(name, str) or name not in numbers:
        raise ValueError(f"after: no earlier step has the name {name!r}")
    return numbers[name]


def _term(key: str, value: Any) -> Any:
    return parse_duration(value) if key in _DURATIONS else value


def _push(given: dict[str, Any], terms: dict[str, Any]) -> tuple[task_pb2.TaskSpec, str | None]:
    file = given.pop("push")
    if "to" not in given:
        raise ValueError("`to` is missing: give [TARGET:]INSTANCE/PATH")
    to = given.pop("to")
    destination = parse_destination(to, project=given.pop("project", ""), default_name=Path(file).name)
    checks.destination(to, destination)
    return push_spec(destination, **given, **terms), file


def _job(given: dict[str, Any], terms: dict[str, Any]) -> tuple[task_pb2.TaskSpec, str | None]:
    file = given.pop("file", None)
    make = cast("Callable[..., task_pb2.TaskSpec]", job_spec)
    return make(given.pop("job"), given.pop("arguments", None), **given, **terms), file
