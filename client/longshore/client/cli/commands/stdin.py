"""This module makes standard input the content of an upload."""

from __future__ import annotations

import os
import stat
import sys
import tempfile

from longshore.client.cli.session import CommandSession
from longshore.client.errors import SourceError
from longshore.client.transfer.content import Content
from longshore.client.transfer.pieces import drawn


def stdin_content(session: CommandSession) -> Content:
    """Return the content. A redirected file is read where it is; anything else is read as it comes, and kept for a
    resume."""
    if sys.stdin is None:
        raise SourceError("standard input is closed: there is nothing to push", reason="SOURCE_UNREADABLE")
    descriptor = sys.stdin.fileno()
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return sys.stdin.buffer
    if os.isatty(descriptor):
        session.say("reading standard input until Ctrl-D")
    elif sys.stderr is not None and sys.stderr.isatty():
        session.say(f"reading standard input to its end; it is kept in {tempfile.gettempdir()} until it is accepted")
    return drawn(descriptor, name="standard input")
