"""How workers call the temps of an attempt.

The rule is shared: a worker makes the name before it writes, and whoever cleans up after a lost worker must know every
name that it can have made. A test holds the worker's side to the same names.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from typing import Final

TRIES_PER_ATTEMPT: Final = 4
"""Temps that one attempt makes at most."""

_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def temps_of(path: str, task_id: str, attempt: int) -> tuple[str, ...]:
    """Every temp that an attempt to deliver to `path` (absolute, normalised) can have made, beside its destination."""
    # Ids that are long or strange are hashed, so that the name never exceeds NAME_MAX.
    plain = task_id if _PLAIN_ID.fullmatch(task_id) else hashlib.sha256(task_id.encode()).hexdigest()[:32]
    folder = posixpath.dirname(path)
    return tuple(
        posixpath.join(folder, f".longshore-{plain}-{attempt}-{number}.tmp")
        for number in range(1, TRIES_PER_ATTEMPT + 1)
    )
