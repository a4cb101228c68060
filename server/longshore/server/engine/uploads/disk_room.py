"""Room on the disk of the spool, promised to the uploads of this process."""

from __future__ import annotations

from typing import Final

from longshore.server.model.clock import Clock
from longshore.server.model.errors import SpoolFull
from longshore.server.spool.protocol import Spool

_FRESH: Final = 0.5
"""Seconds for which an answer about free space is believed, when it is good."""
_RETRY: Final = 5.0


class DiskRoom:
    """Keeps uploads from promising each other the same bytes, and from the disk's reserve.

    The store bounds what the spool holds in all; a Room knows what the disk has.
    """

    def __init__(self, *, spool: Spool, clock: Clock) -> None:
        self._spool = spool
        self._clock = clock
        self._promises: dict[str, int] = {}
        self._promised = 0
        self._free = 0
        self._asked_at: float | None = None

    async def require(self, wanted: int, *, of: str = "") -> None:
        """Raise SpoolFull unless `wanted` more bytes fit; what is promised to `of` itself does not count."""
        others = self._promised - self._promises.get(of, 0)
        if self._asked_at is None or self._clock.ticks() - self._asked_at > _FRESH or self._free - others < wanted:
            self._free = await self._spool.free_bytes()
            self._asked_at = self._clock.ticks()
        free = self._free - (self._promised - self._promises.get(of, 0))
        if free < wanted:
            raise SpoolFull(
                f"The disk of the spool has {max(free, 0)} bytes left for uploads, and {wanted} are needed. Try "
                "later with the same request id.",
                subject="spool",
                retry_after=_RETRY,
            )

    def take(self, wanted: int) -> bool:
        """Tell whether so many bytes are known to fit; they then count as written. `require` finds out what is not
        known."""
        if self._asked_at is None or self._clock.ticks() - self._asked_at > _FRESH:
            return False
        if self._free - self._promised < wanted:
            return False
        self._free -= wanted
        return True

    def promise(self, of: str, unwritten: int) -> None:
        """Promise `of` that it may still write so many bytes, in place of what was promised to it before. 0 ends the
        promise."""
        before = self._promises.pop(of, 0)
        if unwritten > 0:
            self._promises[of] = unwritten
        change = max(unwritten, 0) - before
        self._promised += change
        # Bytes that are not promised any more may be written: they count as used until the disk is asked again, which
        # happens before anybody is refused.
        self._free += min(change, 0)
