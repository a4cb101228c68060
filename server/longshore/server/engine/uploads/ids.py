"""Ids of uploads, and so of payloads."""

from __future__ import annotations

import os
import time
from typing import Final

_BYTES: Final = 16
_AT_ONCE: Final = 256


class RandomIds:
    """Calls answer with 32 random hexadecimal digits, which nobody can guess.

    The randomness of many is fetched at once: each fetch gives up the interpreter, and waits up to 5 ms for it while
    another thread is busy (measured: 190 µs an id, one by one, beside the writer of the database).
    """

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def small(self) -> str:
        """Answer with an id that begins with the time, for content that is kept in the database: the ids of a commit
        are neighbours in its indexes. 80 bits are random. A file's id is random throughout, because its first digits
        name its folder.
        """
        return f"{time.time_ns() // 1_000_000:012x}{self()[12:]}"

    def __call__(self) -> str:
        if self._at >= len(self._pool):
            self._pool, self._at = os.urandom(_BYTES * _AT_ONCE), 0
        self._at += _BYTES
        return self._pool[self._at - _BYTES : self._at].hex()
