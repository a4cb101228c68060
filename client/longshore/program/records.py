"""Log records as people read them: one line each, one style for servers and workers."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from datetime import datetime
from types import TracebackType
from typing import Any, Final, TypeAlias

from longshore.program.visible import visible

Sentence: TypeAlias = Callable[[Mapping[str, Any]], str | None]
"""A function of this type says a record's fields in words. None means that they are shown as `key=value`."""

_LOUD: Final = {"warning": "33", "error": "31", "critical": "31"}
_UNSAID: Final = frozenset({"event", "level", "timestamp", "exc_info", "exception", "stack_info", "logger"})


class TextLines:
    """The last of structlog's processors, where text is wanted.

    A record is one line, whatever stands in its fields; a traceback follows it, indented, so that no line of it looks
    like a record. On a terminal the time is the hour and warnings have a colour; elsewhere the date stands before it.
    """

    def __init__(self, *, terminal: bool, sentences: Mapping[str, Sentence], unsaid: Iterable[str] = ()) -> None:
        """`unsaid`: fields that JSON has and people need not see."""
        self._terminal: Final = terminal
        self._sentences: Final = sentences
        self._unsaid: Final = _UNSAID | set(unsaid)

    def __call__(self, _logger: object, _method: str, record: MutableMapping[str, Any]) -> str:
        """Return the line, without its end."""
        now = datetime.now().astimezone()
        when = f"{now:%H:%M:%S}" if self._terminal else now.isoformat(sep=" ", timespec="seconds")
        level = str(record.get("level", ""))
        loud = f"{level}: " if level in _LOUD else ""
        if loud and self._terminal:
            loud = f"\x1b[{_LOUD[level]}m{loud}\x1b[0m"
        lines = [f"{when} {loud}{visible(self._words(record))}"]
        for each in _traceback(record):
            lines += [f"    {visible(line)}" for line in each.splitlines()]
        return "\n".join(lines)

    def _words(self, record: Mapping[str, Any]) -> str:
        event = str(record.get("event", ""))
        tell = self._sentences.get(event)
        said = tell(record) if tell is not None else None
        return said if said is not None else " ".join([event, *fields(record, without=self._unsaid)])


def fields(record: Mapping[str, Any], *, without: Iterable[str]) -> list[str]:
    """`key=value` for each field that has a value."""
    return [f"{key}={_value(value)}" for key, value in record.items() if key not in without and value is not None]


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}:{_value(each)}" for key, each in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(_value(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if text and " " not in text else f'"{text}"'


def _traceback(record: Mapping[str, Any]) -> Iterable[str]:
    if said := record.get("exception"):
        return [str(said)]
    error = record.get("exc_info")
    if not error:
        return []
    if isinstance(error, BaseException):
        return traceback.format_exception(error)
    found: tuple[type[BaseException] | None, BaseException | None, TracebackType | None]
    found = error if isinstance(error, tuple) else sys.exc_info()
    return traceback.format_exception(*found) if found[1] is not None else []


def size(count: int) -> str:
    """Write bytes: `16 B`, `1.4 MiB`."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):  # noqa: B007 - the unit where it ends is what counts
        if value < 1000:
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def where(record: Mapping[str, Any]) -> str:
    """Return the destination of a push in a record, or the kind of a job and where it runs."""
    if record.get("path"):
        return f"{record.get('instance', '')}{record['path']}"
    on = ":".join(str(record[key]) for key in ("target", "instance") if record.get(key))
    kind = str(record.get("kind", "task"))
    return f"{kind} on {on}" if on else kind
