"""The TOML file of `--config`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final

import typer

_NOT_IN_FILE: Final = frozenset({"config", "show_version", "help"})


def load(context: typer.Context, path: Path | None) -> Path | None:
    """Read the TOML file. Its keys are the long options without dashes in front, with `-` or `_`."""
    if path is None or context.resilient_parsing:
        return path
    try:
        raw = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise typer.BadParameter(f"{path} cannot be used: {why}") from error
    known = {parameter.name: parameter for parameter in context.command.params if parameter.name not in _NOT_IN_FILE}
    values: dict[str, Any] = {}
    for key, value in raw.items():
        option = known.get(key.replace("-", "_"))
        if option is None or option.name is None:
            raise typer.BadParameter(f"{path}: there is no option {key}; `longshored --help` lists them")
        values[option.name] = _from_file(
            f"{path}: {key}", value, flag=bool(getattr(option, "is_flag", False)), many=bool(option.multiple)
        )
    context.default_map = values
    return path


def _from_file(name: str, value: object, *, flag: bool, many: bool) -> object:
    """Check that a value of the file has the option's type. The command line's own checks know only text, and would
    take `true` for 1."""
    if flag:
        if not isinstance(value, bool):
            raise typer.BadParameter(f"{name}: write true or false")
        return value
    if many:
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise typer.BadParameter(f'{name}: write a list of texts, as in ["default=directory:/srv"]')
        return words
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise typer.BadParameter(f"{name}: write one number or text")
    return value
