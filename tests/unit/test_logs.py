"""Many records in one call: they look like everybody's, and a pipe holds whole lines of them, whoever else writes."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from typing import TextIO, cast

import pytest
import structlog

from longshore.program.streams import Stream
from longshore.server.logs import Bulk

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


def test_in_json_they_are_what_structlog_writes() -> None:
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
def test_a_full_pipe_holds_whole_lines_and_the_next_says_how_many_were_lost(size: int) -> None:
    end, fd = os.pipe()
    try:
        # One that must not block, as a container's may be: what a write cannot take whole, it would tear.
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 16 * 1024)
        os.set_blocking(fd, False)
        bulk = Bulk()
        bulk.sink = cast("TextIO", Stream(fd, lossy=True))
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
