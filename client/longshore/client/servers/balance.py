"""The balance chooses which of several servers is asked next."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from longshore.client.servers.endpoint import Endpoint

FIRST_REST: Final = 0.5
"""Seconds for which a server is left alone after it failed; doubled with each further failure."""
LONGEST_REST: Final = 15.0


@dataclass(slots=True)
class _Health:
    failures: int = 0
    resting_until: float = float("-inf")


class Balance:
    """Goes round the servers that are well, from a random one on. Pure: nothing is connected here."""

    def __init__(
        self,
        endpoints: Iterable[Endpoint] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock: Final = clock
        self._chance: Final = chance
        self._health: dict[Endpoint, _Health] = {}
        self._turn = int(chance() * 2**20)
        self.update(endpoints)

    @property
    def known(self) -> Collection[Endpoint]:
        """Return all servers."""
        return self._health.keys()

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """Replace the list of servers. A server that was on the old list too keeps its health."""
        self._health = {endpoint: self._health.get(endpoint) or _Health() for endpoint in endpoints}

    def pick(self, *, but: Collection[Endpoint] = ()) -> Endpoint | None:
        """Choose the next server that is well and not among `but`; if none is well, the one whose rest ends first.

        None means that every server is among `but`.
        """
        candidates = [endpoint for endpoint in self._health if endpoint not in but]
        if not candidates:
            return None
        well = [endpoint for endpoint in candidates if not self._health[endpoint].failures]
        if not well:
            return min(candidates, key=lambda endpoint: self._health[endpoint].resting_until)
        self._turn += 1
        return well[self._turn % len(well)]

    def rested(self) -> Collection[Endpoint]:
        """Return the servers that failed and have had their rest. A caller that finds one well again calls `worked`."""
        now = self._clock()
        return [each for each, health in self._health.items() if health.failures and health.resting_until <= now]

    def failed(self, endpoint: Endpoint) -> None:
        """Note that a server could not be reached, or cannot serve now: others are asked until it has worked again."""
        health = self._health.get(endpoint)
        if health is not None:
            health.failures += 1
            rest = min(FIRST_REST * 2.0 ** min(health.failures - 1, 16), LONGEST_REST)
            health.resting_until = self._clock() + rest * (0.5 + self._chance() / 2)

    def worked(self, endpoint: Endpoint) -> None:
        """Note that a server serves."""
        health = self._health.get(endpoint)
        if health is not None and health.failures:
            health.failures = 0
            health.resting_until = float("-inf")

    def rests(self, endpoint: Endpoint) -> bool:
        """Return whether a server failed a short while ago, and rests."""
        health = self._health.get(endpoint)
        return health is not None and health.resting_until > self._clock()
