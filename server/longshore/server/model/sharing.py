"""Shares a session's room among its targets, so that one that hangs never takes all of it (P10)."""

from __future__ import annotations

from collections.abc import Iterable


class Shares:
    """Tells how much a session could take of each target.

    One attempt of its room is kept for each target that it serves and holds nothing of. So a session with C credits
    and T targets never holds more than max(1, C - (T - 1)) attempts of one of them, and however many of them hang, the
    others go on, as long as there are credits enough for one each. A task without a target (an empty name) takes any
    room.
    """

    __slots__ = ("_kept_for", "room")

    def __init__(self, *, room: int, kept_for: Iterable[str] = ()) -> None:
        self.room = room
        """Attempts that the session could take in all."""
        self._kept_for = set(kept_for)

    def of(self, target: str) -> int:
        """Return how many attempts of `target` the session could take."""
        if not target:
            return self.room
        mine = target in self._kept_for
        return max(self.room - len(self._kept_for) + mine, min(self.room, int(mine)), 0)

    def take(self, target: str) -> None:
        """Count an attempt of `target` that the session takes."""
        self.room -= 1
        self._kept_for.discard(target)
