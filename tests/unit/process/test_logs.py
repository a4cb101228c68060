"""Many records in one call: they look like everybody's, and a pipe holds whole lines of them, whoever else writes."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
from typing import TextIO, cast

import pytest
import structlog

from longshore.program.streams import OutputStream
from longshore.server.logs import CALLERS, BulkLog, Sparing

_log = structlog.get_logger("longshore.tasks")

ODD = [
    "plain",
    'quo"te',
    "back\\slash",
    "line\nbreak\r",
    "\x00\x1b[2J\x7f",
    "é€😀",
    "\ud800 alone",
    "\u2028",
    "</script>",
    "",
]

BOTH_WAYS = """
import sys, structlog
from longshore.server import logs
odd = eval(sys.argv[2])
logs.configure(style=sys.argv[1], level=sys.argv[3])
log = structlog.get_logger("longshore.tasks")
for text in odd:
    fields = {"task_id": "t", "state": "QUEUED", "revision": 1, "error": text}
    logs.bulk.info(log, "task", [fields])
    log.info("task", **fields)
"""


def written(style: str, level: str = "info") -> list[bytes]:
    done = subprocess.run(
        [sys.executable, "-c", BOTH_WAYS, style, ascii(ODD), level], stderr=subprocess.PIPE, check=True, timeout=60
    )
    return done.stderr.splitlines()


def test_json_records_equal_structlogs_output() -> None:
    lines = written("json")
    assert len(lines) == 2 * len(ODD)
    for one, other in zip(lines[::2], lines[1::2], strict=True):
        mine, theirs = json.loads(one), json.loads(other)
        assert len(mine.pop("timestamp")) == len(theirs.pop("timestamp"))
        assert list(mine.items()) == list(theirs.items())


def test_as_text_they_go_through_structlog_and_below_the_level_nowhere() -> None:
    assert len(written("text")) >= 2 * len(ODD)
    assert written("json", "warning") == written("text", "error") == []


@pytest.mark.parametrize("size", [10, 200, 3000])
def test_a_full_pipe_keeps_whole_lines_and_the_next_line_counts_the_lost_ones(size: int) -> None:
    end, fd = os.pipe()
    try:
        # One that must not block, as a container's may be: what a write cannot take whole, it would tear.
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 16 * 1024)
        os.set_blocking(fd, False)
        bulk = BulkLog()
        bulk.sink = cast("TextIO", OutputStream(fd, lossy=True))
        bulk.info(_log, "task", [{"number": number, "filler": "x" * size} for number in range(2000)])
        read = b""
        while len(read) < 16 * 1024 and not read.endswith(b"}\n"):
            read += os.read(end, 1 << 20)
        kept = [json.loads(line)["number"] for line in read.splitlines()]
        assert kept == list(range(len(kept)))
        bulk.info(_log, "task", [{"number": 2000}])
        said, last = os.read(end, 1 << 20).splitlines()
        assert said == b"(%d lines were lost)" % (2000 - len(kept))
        assert json.loads(last)["number"] == 2000
    finally:
        os.close(fd)
        os.close(end)


class Lines:
    """A logger's method, and what it was told to write."""

    def __init__(self) -> None:
        self.said: list[dict[str, object]] = []
        self.more = asyncio.Event()

    def write(self, event: str, **fields: object) -> None:
        self.said.append({"event": event, **fields})
        self.more.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.said) < count:
                self.more.clear()
                await self.more.wait()


async def test_lines_that_a_caller_can_cause_are_one_per_span_and_counted() -> None:
    lines, sparing = Lines(), Sparing(every=0.05)
    for number in range(1000):
        sparing.say(lines.write, "refused", caller="a", reason="X", number=number)
    sparing.say(lines.write, "refused", caller="b", reason="X")
    assert lines.said == [
        {"event": "refused", "reason": "X", "number": 0},
        {"event": "refused", "reason": "X"},
    ]
    await lines.until(3)
    assert lines.said[2:] == [{"event": "refused", "reason": "X", "number": 999, "count": 999}]
    # Still within the span that this line has begun.
    sparing.say(lines.write, "refused", caller="a", reason="X", number=1000)
    sparing.say(lines.write, "cut", caller="a", number=1001)
    assert len(lines.said) == 3
    await lines.until(4)
    assert lines.said[3] == {"event": "cut", "number": 1001, "count": 2, "counts": {"X": 1, "cut": 1}}


async def test_many_callers_make_no_more_lines_than_a_bound() -> None:
    lines, sparing = Lines(), Sparing(every=0.05)
    for number in range(CALLERS * 3):
        for _ in range(2):
            sparing.say(lines.write, "refused", caller=str(number))
    assert len(lines.said) == CALLERS + 1
    await lines.until(2 * (CALLERS + 1))
    assert sum(int(str(line.get("count", 1))) for line in lines.said) == 6 * CALLERS


def test_lines_of_a_loop_that_has_ended_hold_up_no_other() -> None:
    lines, now = Lines(), 0.0
    sparing = Sparing(every=1.0, clock=lambda: now)

    async def say() -> None:
        sparing.say(lines.write, "refused", caller="a")

    asyncio.run(say())
    now = 11.0
    asyncio.run(say())
    assert len(lines.said) == 2
