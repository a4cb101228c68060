"""Log lines: JSON for machines, aligned and coloured on a terminal, always on standard error."""

from __future__ import annotations

import logging
import os
import sys
from enum import StrEnum
from typing import Final, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger


class LogFormat(StrEnum):
    """How lines look."""

    AUTO = "auto"
    """Text on a terminal, JSON elsewhere."""
    JSON = "json"
    TEXT = "text"


LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Sink:
    """Standard error, which may be full or gone: then lines are lost, and never the work that they tell of.

    A journal that is restarted closes the pipe, and a log file may stand on a full disk. The next line that gets
    through is preceded by how many did not. Past Python's own buffer, which would keep what failed and fail again at
    the exit.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lost = 0

    def write(self, text: str) -> int:
        """Write one record or nothing of it; never raises."""
        said = f"({self._lost} log lines were lost)\n" if self._lost else ""
        try:
            rest = memoryview((said + text).encode(errors="backslashreplace"))
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            self._lost += 1
        else:
            self._lost = 0
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


def configure(*, worker: str, style: LogFormat = LogFormat.AUTO, level: str = "info") -> None:
    """Set up structlog for this process. Every line carries the worker's name. KeyError for an unknown level."""

    def add_worker(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["worker"] = worker
        return event

    text = style is LogFormat.TEXT or (style is LogFormat.AUTO and sys.stderr.isatty())
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    )
    structlog.configure(
        processors=[
            add_worker,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", Sink(2))),
        cache_logger_on_first_use=True,
    )
