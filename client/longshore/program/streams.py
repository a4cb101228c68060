"""The three streams of a program, any of which may be closed, full, or narrow."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Final

from longshore.program.visible import visible

OUTPUT_LOST: Final = 74
"""Exit code: standard output could not be written (EX_IOERR)."""
BROKEN_PIPE: Final = 141
"""Exit code: nobody reads standard output any more, as of a program that SIGPIPE ended."""


class OutputLost(Exception):
    """Standard output cannot be written. It is no OSError, which libraries on the way would treat as they see fit."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output cannot be written: {error.strerror}")
        self.errno = error.errno

    @property
    def exit_code(self) -> int:
        """Return the exit code that the program ends with."""
        return BROKEN_PIPE if self.errno == errno.EPIPE else OUTPUT_LOST


class OutputStream(io.TextIOBase):
    """Writes past Python's own buffer, which would keep what failed and fail again at the exit.

    Characters that the encoding lacks are written as escapes. `lossy`: a stream that cannot be written loses lines, and
    never the work that they tell of; the next line that gets through says how many. Otherwise `write` raises
    OutputLost.
    """

    def __init__(self, fd: int, *, encoding: str = "utf-8", lossy: bool) -> None:
        self._fd = fd
        self._encoding = encoding
        self._lossy = lossy
        self._lost = 0

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Return the encoding as it was given."""
        return self._encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        """Characters that the encoding lacks become escapes."""
        return "backslashreplace"

    @property
    def is_utf8(self) -> bool:
        """Return whether every character can be written."""
        return self._encoding.lower().replace("_", "-") in {"utf-8", "utf8"}

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def isatty(self) -> bool:
        """People look."""
        return os.isatty(self._fd)

    def writable(self) -> bool:
        """Return True: the stream is for writing, even if its descriptor is closed."""
        return True

    def write(self, text: str, /) -> int:
        """Write the whole text. A lossy stream loses it instead of raising OutputLost."""
        said = f"({self._lost} lines were lost)\n" if self._lost else ""
        try:
            rest = memoryview((said + text).encode(self._encoding, "backslashreplace"))
            while rest:
                rest = rest[self._some(rest) :]
        except OSError as error:
            if not self._lossy:
                raise OutputLost(error) from None
            self._lost += text.count("\n")
        else:
            self._lost = 0
        return len(text)

    def _some(self, rest: memoryview) -> int:
        try:
            return os.write(self._fd, rest)
        except BlockingIOError:
            if self._lossy:
                raise
            # The process that started us shares the pipe and has made it non-blocking.
            select.select([], [self._fd], [])
            return 0

    def flush(self) -> None:
        """Do nothing: the stream holds nothing back."""


def prepare() -> None:
    """Make the three streams safe to use. Comes before anything is opened.

    A closed descriptor is taken, so that no socket or file takes its number and gets what is printed. What takes it
    answers EBADF to every use, as a closed one does: an id that is printed there is known to be lost.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_WRONLY if fd == 0 else os.O_RDONLY), True)
    sys.stdout = OutputStream(1, encoding=_encoding(sys.stdout), lossy=False)
    sys.stderr = OutputStream(2, encoding=_encoding(sys.stderr), lossy=True)


def _encoding(stream: object) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def say(text: str, *, err: bool = False) -> None:
    """Print one line of text, in which nothing of others steers the terminal. Raises OutputLost."""
    (sys.stderr if err else sys.stdout).write(visible(text) + "\n")
