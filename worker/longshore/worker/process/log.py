"""Log lines: JSON for machines, a sentence or `event key=value …` on a terminal, always on standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from longshore.program.records import Sentence, TextLines, took, where
from longshore.program.streams import OutputStream


class LogFormat(StrEnum):
    """How lines look."""

    AUTO = "auto"
    """Text on a terminal, JSON elsewhere."""
    JSON = "json"
    TEXT = "text"


LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(*, worker: str, style: LogFormat = LogFormat.AUTO, level: str = "info", beside: bool = False) -> None:
    """Set up structlog for this process. Every JSON line carries the worker's name. KeyError for an unknown level.

    `beside`: the server that started us writes to the same log. It tells of connections and of how tasks end, so at
    level info only tries that failed are told here.
    """

    def add_worker(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["worker"] = worker
        return event

    text = style is LogFormat.TEXT or (style is LogFormat.AUTO and sys.stderr.isatty())
    last: list[Processor] = (
        [TextLines(terminal=sys.stderr.isatty(), sentences=_SENTENCES, unsaid={"worker"})]
        if text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    )
    structlog.configure(
        processors=[
            *([_only_news] if beside and LEVELS[level] >= logging.INFO else []),
            add_worker,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", OutputStream(2, lossy=True))),
        cache_logger_on_first_use=True,
    )


def _only_news(_: WrappedLogger, method: str, event: EventDict) -> EventDict:
    ended = event["event"] == "attempt_ended"
    if (ended and event.get("outcome") not in _TRIED_AGAIN) or (not ended and method == "info"):
        raise structlog.DropEvent
    return event


_TRIED_AGAIN: Final = frozenset({"TRANSIENT", "UNKNOWN"})
"""Outcomes after which the task goes on, of which a server says nothing at level info."""


def _attempt(record: Mapping[str, Any]) -> str | None:
    """An attempt's end in words."""
    what, number, seconds = where(record), record.get("attempt"), float(record.get("seconds") or 0.0)
    to = f" to {record['target']}" if record.get("path") else ""
    if record.get("outcome") == "OK":
        return f"{what} {'delivered' if to else 'done'}{to} in {took(seconds)}, task {record.get('task_id')}"
    why = str(record.get("message") or "").rstrip(".")
    why = f": {why} ({record.get('reason')})" if why else ""
    outcome = str(record.get("outcome")).lower().replace("_", " ")
    return f"{what}{to}: attempt {number} ended {outcome} after {took(seconds)}{why}; task {record.get('task_id')}"


_SENTENCES: Final[Mapping[str, Sentence]] = {"attempt_ended": _attempt}
