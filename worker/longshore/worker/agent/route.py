"""The route decides which server the session connects to next."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from longshore.client.servers.balance import Balance
from longshore.client.servers.endpoint import Endpoint
from longshore.client.servers.names import looked_up

WELCOME: Final = 20.0
"""Seconds for a server to say welcome: it commits the hello first, and a database may be slow."""
_FIRST_WELCOME: Final = 5.0
"""Seconds for the same before there is a lease, while there are other servers to ask."""


class ServerRoute:
    """Goes round the servers, from a random one on. After each was tried once, it is time for a pause."""

    def __init__(self, given: Sequence[Endpoint], *, chance: Callable[[], float] = random.random) -> None:
        self._given: Final = tuple(given)
        self._chance: Final = chance
        self._balance: Final = Balance(given, chance=chance)
        self._tried: set[Endpoint] = set()
        self._wanted: Endpoint | None = None
        self._silences = 0
        self._lost = False

    @property
    def several(self) -> bool:
        """Return whether there is another server than the connected one."""
        return len(self._balance.known) > 1

    @property
    def over(self) -> bool:
        """Return whether every server was tried and none kept the session, or no server was found."""
        return self._lost or all(endpoint in self._tried for endpoint in self._balance.known)

    async def next(self) -> Endpoint:
        """Return the next server. Raises Unavailable when names cannot be looked up."""
        if not self._tried or self.over:
            # Names are looked up once a round.
            self._tried.clear()
            self._lost = True
            self._balance.update(await looked_up(self._given))
            self._lost = False
        wanted, self._wanted = self._wanted, None
        picked = wanted or self._balance.pick(but=self._tried)
        assert picked is not None, "a round that is over begins anew"
        return picked

    def want(self, endpoint: Endpoint) -> None:
        """Make this server the next one."""
        self._wanted = endpoint

    def ended(self, endpoint: Endpoint, *, stood: bool) -> None:
        """Note that the connection to the server is over. `stood` means that it was a good one, so that earlier
        failures do not count any more."""
        if stood:
            self._tried.clear()
        self._tried.add(endpoint)
        self._balance.failed(endpoint)

    def moved(self, endpoint: Endpoint) -> None:
        """Note that a healthy connection to the server was given up for another server."""
        self._tried.clear()
        self._balance.worked(endpoint)

    def welcomed(self, endpoint: Endpoint) -> None:
        """Note that the server has taken the session."""
        self._balance.worked(endpoint)

    def fell_silent(self) -> None:
        """Note that a connection was given up because heartbeats were not acknowledged."""
        self._silences += 1

    def spoke(self) -> None:
        """Note that a connection has had its heartbeats acknowledged for a good while."""
        self._silences = 0

    def silence(self, lease: float) -> float | None:
        """Return the seconds without an acknowledgement after which the worker tries another server. None means never.

        Half a lease leaves time to be welcomed elsewhere. If that server is silent too, the cause is likely to be one
        that all servers share (their database). The time therefore doubles with each silent server, so that a worker
        does not run to and fro.
        """
        return lease / 2 * 2.0 ** min(self._silences, 10) if self.several else None

    def welcome(self, *, lease: float | None, left: float, rounds: int) -> float:
        """Return the seconds to wait for a welcome: a fair share of the time that is left of the lease.

        Each server that was not tried yet has a share, and one share is kept for another try at the others. The wait
        grows from round to round, as a database may be slow everywhere.
        """
        if not self.several:
            return WELCOME
        if lease is None:
            return min(WELCOME, _FIRST_WELCOME * 2.0 ** min(rounds, 10))
        untried = len(self._balance.known) - len(self._tried)
        return min(WELCOME, max(left / (untried + 1), lease / 4 * 2.0 ** min(rounds, 10)))

    def elsewhere(self, endpoint: Endpoint) -> Endpoint | None:
        """Choose a server by chance. None means that the choice fell on this one, or on one that failed a short while
        ago."""
        known = list(self._balance.known)
        other = known[int(self._chance() * len(known))]
        return None if other == endpoint or self._balance.rests(other) else other

    def unreachable(self, endpoint: Endpoint) -> None:
        """Note that a server took no connection."""
        self._balance.failed(endpoint)
