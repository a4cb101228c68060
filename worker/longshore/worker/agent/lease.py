"""The lease says when heartbeats are due, and how long the server believes this worker alive."""

from __future__ import annotations

from collections.abc import Callable


class Lease:
    """The lease counts from the sending of the newest heartbeat whose renewal the server has made durable.

    No attempt is stopped when the lease ends. The lease only says which workers live; grants keep deliveries safe, and
    a server whose database is away must not cost the fleet its work. `clock` says when a heartbeat is due;
    `lease_clock` goes on while the machine sleeps.
    """

    def __init__(self, *, clock: Callable[[], float], lease_clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lease_clock = lease_clock
        self._seconds = 30.0
        self._end: float | None = None
        self._sequence = 0
        self._sent: dict[int, float] = {}
        self._due_at = 0.0

    @property
    def seconds(self) -> float:
        """Return the length of the lease, as the server said it."""
        return self._seconds

    @property
    def confirmed(self) -> bool:
        """Return whether the lease had not ended at the last look."""
        return self._end is not None

    @property
    def left(self) -> float:
        """Return the seconds until the lease ends, as far as is known here. 0 means that it has ended."""
        return 0.0 if self._end is None else max(0.0, self._end - self._lease_clock())

    @property
    def unanswered(self) -> float:
        """Return the seconds for which the oldest heartbeat has waited for its acknowledgement."""
        oldest = next(iter(self._sent.values()), None)
        return 0.0 if oldest is None else self._lease_clock() - oldest

    def begin(self, seconds: float) -> int:
        """Begin the lease of a new connection. Returns the number of the first heartbeat to send."""
        self._seconds = max(0.1, seconds)
        self._end = self._lease_clock() + self._seconds
        self._sent.clear()
        return self.beat()

    def beat(self) -> int:
        """Return the number of the heartbeat that is sent now. The next one is due a sixth of the lease later."""
        self._sequence += 1
        self._sent[self._sequence] = self._lease_clock()
        self._due_at = self._clock() + self._seconds / 6
        return self._sequence

    def due(self) -> bool:
        """Return whether it is time for a heartbeat."""
        return self._clock() >= self._due_at

    def acknowledged(self, sequence: int) -> None:
        """Renew the lease from the time at which the heartbeat was sent. The answer may have taken its time, and the
        server counts from when it heard the heartbeat."""
        sent = self._sent.get(sequence)
        if sent is not None:
            self._end = sent + self._seconds
        for older in [number for number in self._sent if number <= sequence]:
            del self._sent[older]

    def ended(self) -> bool:
        """Return whether the lease has ended since the last look; True comes once."""
        if self._end is None or self._lease_clock() <= self._end:
            return False
        self._end = None
        return True
