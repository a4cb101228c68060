"""The names of temps, the temporary files that an attempt writes beside its destination.

A name follows from the attempt alone. The worker that cleans up after a lost one is told every name that the lost one
can have used.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from typing import Final

TRIES_PER_ATTEMPT: Final = 4
"""Temps that one attempt makes at most."""

_TEMP: Final = re.compile(r"\.longshore-[A-Za-z0-9_-]{1,64}-[0-9]+-[0-9]+\.tmp")
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def temps_of(path: str, task_id: str, attempt: int) -> tuple[str, ...]:
    """Return every temp that an attempt to deliver to `path` (absolute, normalised) can have made, in the order of its
    tries.

    Each lies beside the destination, so that a rename stays on one file system.
    """
    # Ids that are long or strange are hashed, so that the name never exceeds 255 bytes.
    plain = task_id if _PLAIN_ID.fullmatch(task_id) else hashlib.sha256(task_id.encode()).hexdigest()[:32]
    folder = posixpath.dirname(path)
    return tuple(
        posixpath.join(folder, f".longshore-{plain}-{attempt}-{number}.tmp")
        for number in range(1, TRIES_PER_ATTEMPT + 1)
    )


def is_temp(path: str) -> bool:
    """Return whether a path can be a temp of Longshore. A worker removes nothing else on behalf of another one."""
    return bool(_TEMP.fullmatch(posixpath.basename(path)))
