"""Refused calls in the log: that there are some, from where, and how many; not a line for each."""

from __future__ import annotations

import time
from typing import Final

import structlog

from longshore.server.model.errors import Forbidden, LongshoreError, Unauthenticated

_log = structlog.get_logger("longshore.auth")

EVERY: Final = 10.0
"""Seconds between lines about the same reason."""


class RefusalLog:
    """One line for the first refusal of each reason, and from then on one for all in EVERY seconds."""

    def __init__(self, *, every: float = EVERY) -> None:
        self._every = every
        self._said: dict[str, float] = {}
        self._silent: dict[str, int] = {}

    def refused(self, error: LongshoreError, *, method: str, peer: str) -> None:
        """A call was refused. What it showed is in no line."""
        if not isinstance(error, (Unauthenticated, Forbidden)):
            return
        now = time.monotonic()
        count = self._silent.get(error.reason, 0) + 1
        last = self._said.get(error.reason)
        if last is not None and now - last < self._every:
            self._silent[error.reason] = count
            return
        self._said[error.reason], self._silent[error.reason] = now, 0
        _log.warning(
            "calls_refused",
            reason=error.reason,
            calls=count,
            method=method[:100],
            peer=peer,
            message=error.message,
        )
