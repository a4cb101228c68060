"""Logging: a line per event, for people on a terminal and JSON elsewhere."""

from __future__ import annotations

import logging
import os
import sys
from typing import Literal, TextIO, cast

import structlog

LogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]


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


def configure(*, style: LogFormat, level: LogLevel) -> None:
    """Send structlog and the standard library's logging to stderr, in one shape.

    `auto` is text on a terminal, JSON elsewhere.
    """
    as_json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    sink = cast("TextIO", Sink(2))  # all of it that loggers use
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.types.Processor]
    if as_json:
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        renderer = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=16)]
    structlog.configure(
        processors=[shared[0], shared[1], shared[3], *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sink),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sink)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))
