"""Slots bound the upload streams of this process, and give one caller at most half of them while others ask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from longshore.server.model.clock import Clock
from longshore.server.model.errors import CallerShare, TooManyUploads

WAITING: Final = 30.0
"""Seconds for which a caller that was refused counts as waiting."""


class StreamSlots:
    """Bounds the streams of uploads. The store has the same rule for open uploads, over all servers."""

    def __init__(self, most: int, clock: Clock) -> None:
        self._most = most
        self._share = max(most // 2, 1)
        self._clock = clock
        self._asked_at: float | None = None
        """When a caller with less than its share found no slot. None means that this has not happened."""

    def check(self, principal: str, held: Iterable[tuple[str, str]], *, taken: int) -> None:
        """Raise TooManyUploads or CallerShare unless `principal` may have one more. `held` has the caller and the
        request of each of the others."""
        if taken < self._share:
            return
        now = self._clock.ticks()
        mine = sum(caller == principal for caller, _ in held)
        if taken >= self._most:
            if mine < self._share:
                self._asked_at = now
            raise TooManyUploads(
                f"{taken} uploads are being sent to this server, {mine} of them by {principal!r}, as many as may be. "
                "Try later with the same request id.",
                subject="connections",
            )
        if mine >= self._share and self._asked_at is not None and now - self._asked_at < WAITING:
            raise CallerShare(
                f"{principal!r} is sending {mine} of {self._most} uploads to this server, and other callers wait for a "
                "slot: a caller gets at most half then. Try later with the same request id.",
                subject=f"principal:{principal}",
            )
