"""Logging: a line per event, for people on a terminal and JSON elsewhere."""

from __future__ import annotations

import asyncio
import json.encoder
import logging
import select
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO, TypeAlias

import structlog

from longshore.program import logs as program_logs
from longshore.program.durations import format_took
from longshore.program.logs import LogFormat, LogLevel
from longshore.program.records import Sentence, size, where

FlatRecord: TypeAlias = dict[str, str | int | float | list[str]]


class BulkLog:
    """Flat records of one event, many at a time: in JSON they are written by one call, without structlog's processors.

    Those take 15 µs a record, which three records a task made a sixth of what the server's loop did
    (bench/support/noop.py). The records look the same. `sink` None means that they go through structlog, as on a
    terminal and in tests.
    """

    def __init__(self) -> None:
        self.sink: TextIO | None = None
        self.least = logging.DEBUG

    def enabled(self, level: int) -> bool:
        """Tell whether records of this level are written."""
        return level >= self.least

    def info(self, logger: structlog.typing.FilteringBoundLogger, event: str, records: Iterable[FlatRecord]) -> None:
        """Write one record for each of `records`, at level info."""
        self.log(logging.INFO, logger, event, records)

    def log(
        self,
        level: int,
        logger: structlog.typing.FilteringBoundLogger,
        event: str,
        records: Iterable[FlatRecord],
    ) -> None:
        """Write one record for each of `records`."""
        if not self.enabled(level):
            return
        if self.sink is None:
            for each in records:
                logger.log(level, event, **each)
            return
        name = logging.getLevelName(level).lower()
        tail = f', "event": {_text(event)}, "level": "{name}", "timestamp": "{_stamp()}"}}\n'
        for text in _whole([_record(each) + tail for each in records]):
            self.sink.write(text)


_text: Final = json.encoder.encode_basestring_ascii
_PIECE: Final = select.PIPE_BUF - 64
"""Bytes in a write; what was lost may be said before them."""


def _record(fields: FlatRecord) -> str:
    """Print all of a JSON object but its end. `json.dumps` makes an encoder each time, which takes longer than its
    work."""
    parts = [f'"{key}": {_text(value) if isinstance(value, str) else _other(value)}' for key, value in fields.items()]
    return "{" + ", ".join(parts)


def _other(value: float | list[str]) -> str:
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, list) else str(value)


def _whole(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines in pieces that a pipe takes whole or not at all: longer ones are mixed with what others write to
    it, as `longshored`'s own worker does, and torn where a pipe that must not block is full."""
    some: list[str] = []
    size = 0
    for line in lines:
        size += len(line)  # ASCII, as the encoder makes it
        if some and size > _PIECE:
            yield "".join(some)
            some, size = [], len(line)
        some.append(line)
    if some:
        yield "".join(some)


def _stamp() -> str:
    """Print the time as structlog's TimeStamper does."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


bulk: Final = BulkLog()
"""The bulk log of the process: `configure` says what it writes to."""


EVERY: Final = 1.0
"""Seconds for which a caller has one line of what it can make as many of as it likes."""
CALLERS: Final = 100
"""Callers that have lines of their own at a time. The others share one, so that many addresses make no more lines."""


class Sparing:
    """Writes lines that a caller can cause at will: one for a caller and `every` seconds, and none is uncounted.

    The first is written at once. The others of the same span become one line at its end, which is the last of them,
    with `count` for how many it stands for. Belongs to one event loop.
    """

    def __init__(self, *, every: float = EVERY, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._clock = clock
        self._spans: dict[str, _Span] = {}

    def say(self, write: Callable[..., object], event: str, *, caller: str, **fields: object) -> None:
        """Write `event` with its fields now, or count it. `write` is a method of a logger."""
        now = self._clock()
        span = self._spans.get(caller)
        if span is None and len(self._spans) >= CALLERS:
            caller = "others"
            span = self._spans.get(caller)
        # A span whose loop has ended, and its timer with it, is over too.
        if span is None or now - span.begun > 10 * self._every:
            span = self._spans[caller] = _Span(now)
            write(event, **fields)
            self._later(caller, span)
            return
        span.counts[str(fields.get("reason", event))] += 1
        span.last = (write, event, fields)

    def _later(self, caller: str, span: _Span) -> None:
        asyncio.get_running_loop().call_later(self._every, self._close, caller, span)

    def _close(self, caller: str, span: _Span) -> None:
        if self._spans.get(caller) is not span:
            return
        if span.last is None:
            del self._spans[caller]
            return
        write, event, fields = span.last
        kinds = {"counts": dict(span.counts)} if len(span.counts) > 1 else {}
        write(event, **fields, count=span.counts.total(), **kinds)
        fresh = self._spans[caller] = _Span(self._clock())
        self._later(caller, fresh)


class _Span:
    """Keeps the lines that a caller caused since its last written one."""

    __slots__ = ("begun", "counts", "last")

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.counts: Counter[str] = Counter()
        self.last: tuple[Callable[..., object], str, dict[str, object]] | None = None


sparing: Final = Sparing()
"""The process's log of events that a caller can cause at will: one line for each caller and second, whatever kinds of
events it causes."""


def configure(*, style: LogFormat, level: LogLevel) -> None:
    """Send structlog and the standard library's logging to standard error, in one shape."""
    sink = program_logs.configure(
        style=style,
        level=level,
        sentences=_SENTENCES,
        first=[structlog.contextvars.merge_contextvars],
        first_of_text=[] if level == "debug" else [_without_what_follows],
    )
    bulk.sink = sink.stream if sink.as_json else None
    bulk.least = sink.level
    sink.take_libraries()


def _without_what_follows(_: object, __: str, record: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Leave out what people are told again by a later line: an upload by its tasks' ends. JSON keeps it, for audits."""
    if record.get("event") in _TOLD_AGAIN:
        raise structlog.DropEvent
    return record


_TOLD_AGAIN: Final = frozenset({"upload_complete", "store_writable", "worker_started"})


def _task(record: Mapping[str, Any]) -> str | None:
    """Say a task's end in words. None means that the record is a step on its way."""
    state, what = record.get("state"), where(record)
    to = f" to {record['target']}" if record.get("path") else ""
    by = f" by {record['worker']}" if record.get("worker") else ""
    seconds = record.get("seconds")
    time = f" in {format_took(seconds)}" if isinstance(seconds, int | float) else ""
    if state == "SUCCEEDED":
        done = "delivered" if to else "done"
        bytes_ = f", {size(int(record['size']))}" if "size" in record else ""
        return f"{what} {done}{to}{by}{bytes_}{time}"
    whose = f"task {record.get('task_id')} of {record.get('creator')}"
    why = str(record.get("error", "")).rstrip(".")
    why = f": {why} ({record.get('reason')})" if why else ""
    match state:
        case "FAILED":
            return f"{what} {'not delivered' if to else 'failed'}{to}{by}{why}; {whose}"
        case "EXPIRED":
            return f"{what} expired{why}; {whose}"
        case "CANCELLED":
            return f"{what} cancelled; {whose}"
    return None


def _serving(record: Mapping[str, Any]) -> str:
    addresses, process = ", ".join(record.get("addresses", ())), f"pid {record.get('pid')}"
    return f"listening on {addresses}; data in {record.get('data_dir')}; version {record.get('version')}, {process}"


_SENTENCES: Final[Mapping[str, Sentence]] = {"task": _task, "serving": _serving}
