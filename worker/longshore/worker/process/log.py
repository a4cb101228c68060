"""Log lines: JSON for machines, a sentence or `event key=value …` on a terminal, always on standard error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import structlog
from structlog.typing import EventDict, WrappedLogger

from longshore.program import logs
from longshore.program.durations import format_took
from longshore.program.logs import LogFormat, LogLevel
from longshore.program.records import Sentence, where


def configure(*, worker: str, style: LogFormat = "auto", level: LogLevel = "info", beside: bool = False) -> None:
    """Set up structlog for this process. Every JSON line carries the worker's name.

    `beside`: the server that started us writes to the same log. It tells of connections and of how tasks end, so at
    level info only tries that failed are told here.
    """

    def add_worker(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["worker"] = worker
        return event

    news = [_only_news] if beside and level != "debug" else []
    logs.configure(style=style, level=level, sentences=_SENTENCES, first=[*news, add_worker], unsaid={"worker"})


def _only_news(_: WrappedLogger, method: str, event: EventDict) -> EventDict:
    ended = event["event"] == "attempt_ended"
    if (ended and event.get("outcome") not in _TRIED_AGAIN) or (not ended and method == "info"):
        raise structlog.DropEvent
    return event


_TRIED_AGAIN: Final = frozenset({"TRANSIENT", "UNKNOWN"})
"""Outcomes after which the task goes on, of which a server says nothing at level info."""


def _attempt(record: Mapping[str, Any]) -> str | None:
    """Say an attempt's end in words."""
    what, number, seconds = where(record), record.get("attempt"), float(record.get("seconds") or 0.0)
    to = f" to {record['target']}" if record.get("path") else ""
    if record.get("outcome") == "OK":
        return f"{what} {'delivered' if to else 'done'}{to} in {format_took(seconds)}, task {record.get('task_id')}"
    why = str(record.get("message") or "").rstrip(".")
    why = f": {why} ({record.get('reason')})" if why else ""
    outcome = str(record.get("outcome")).lower().replace("_", " ")
    return (
        f"{what}{to}: attempt {number} ended {outcome} after {format_took(seconds)}{why}; task {record.get('task_id')}"
    )


_SENTENCES: Final[Mapping[str, Sentence]] = {"attempt_ended": _attempt}
