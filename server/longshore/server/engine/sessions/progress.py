"""The board keeps the newest byte progress of each running attempt in memory, for its watches.

Nothing is queued: a report overwrites the one before it, and a watcher is only told that there is something newer.
"""

from __future__ import annotations

from collections.abc import Callable

from longshore.server.engine.watch import Progress


class ProgressBoard:
    """Keeps the newest progress of every attempt held through this server, and so has one entry for each at most."""

    def __init__(self) -> None:
        self._latest: dict[str, Progress] = {}
        self._listeners: dict[str, dict[int, Callable[[], None]]] = {}
        self._subscriptions = 0

    def __len__(self) -> int:
        return len(self._latest)

    def latest(self, task_id: str) -> Progress | None:
        """Return the newest progress of the attempt that runs. None means that none was reported."""
        return self._latest.get(task_id)

    def update(self, task_id: str, progress: Progress) -> None:
        """Replace the known progress. The caller has made sure that the attempt is the one that runs."""
        self._latest[task_id] = progress
        for listener in tuple(self._listeners.get(task_id, {}).values()):
            listener()

    def forget(self, task_id: str, attempt: int) -> None:
        """Forget the progress of an attempt that is over; a newer one's stays."""
        known = self._latest.get(task_id)
        if known is not None and known.attempt <= attempt:
            del self._latest[task_id]

    def subscribe(self, task_id: str, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` whenever the task's progress moves; returns the way to stop it."""
        self._subscriptions += 1
        number = self._subscriptions
        self._listeners.setdefault(task_id, {})[number] = listener

        def forget() -> None:
            listeners = self._listeners.get(task_id, {})
            if listeners.pop(number, None) is not None and not listeners:
                del self._listeners[task_id]

        return forget
