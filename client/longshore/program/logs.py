"""The one sink of log records: a line per record on standard error, JSON for machines and text for people.

Servers and workers import this module. The client does without structlog, which its install does not bring.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TextIO, cast

import structlog
from structlog.typing import Processor

from longshore.program.records import Sentence, TextLines
from longshore.program.streams import OutputStream

LogFormat = Literal["auto", "json", "text"]
"""`auto` is text on a terminal, JSON elsewhere."""
LogLevel = Literal["debug", "info", "warning", "error"]

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


@dataclass(frozen=True, slots=True)
class Sink:
    """Where the log goes, and how its records are written."""

    stream: TextIO
    as_json: bool
    level: int
    first: Sequence[Processor]
    last: Sequence[Processor]

    def take_libraries(self) -> None:
        """Write what libraries log at level warning and above into the same sink, in the same shape."""
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *self.first],
                processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *self.last],
            )
        )
        root = logging.getLogger()
        root.handlers[:] = [handler]
        root.setLevel(max(self.level, logging.WARNING))


def configure(
    *,
    style: LogFormat,
    level: LogLevel,
    sentences: Mapping[str, Sentence],
    first: Iterable[Processor] = (),
    first_of_text: Iterable[Processor] = (),
    unsaid: Iterable[str] = (),
) -> Sink:
    """Send the records of structlog to standard error, and return the sink.

    `first` are processors that add fields or drop records, `first_of_text` those that text has besides. `sentences` and
    `unsaid` are those of TextLines.
    """
    as_json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    last: Sequence[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
        if as_json
        else [*first_of_text, TextLines(terminal=sys.stderr.isatty(), sentences=sentences, unsaid=unsaid)]
    )
    sink = Sink(
        stream=cast("TextIO", OutputStream(2, lossy=True)),
        as_json=as_json,
        level=LEVELS[level],
        first=[*first, structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)],
        last=last,
    )
    structlog.configure(
        processors=[*sink.first, *sink.last],
        wrapper_class=structlog.make_filtering_bound_logger(sink.level),
        logger_factory=structlog.WriteLoggerFactory(sink.stream),
        cache_logger_on_first_use=True,
    )
    return sink
