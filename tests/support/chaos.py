"""Processes that die at random moments, and somebody who starts them again."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.support.servers.processes import Process

REVIVAL = 90.0
"""Seconds in which a process must be up again on a busy machine, whatever else is down meanwhile."""


class Chaos:
    """Kills (-9) one of the processes every `pause` seconds, whatever is down already; each is started again after a
    moment, as systemd would, and again if it cannot start because something else is down.
    """

    def __init__(self, victims: Sequence[Process], rng: random.Random, *, pause: float) -> None:
        self.kills: Counter[str] = Counter()
        self._victims, self._rng, self._pause = list(victims), rng, pause
        self._down: set[Process] = set()
        self._over = threading.Event()
        self._failed: list[BaseException] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the block runs. At its end all are up; raises what kept one from coming back."""
        with ThreadPoolExecutor(len(self._victims)) as helpers:
            killer = threading.Thread(target=self._kill, args=(helpers,))
            killer.start()
            try:
                yield
            finally:
                self._over.set()
                killer.join(REVIVAL)
        if self._failed:
            raise self._failed[0]

    def _kill(self, helpers: ThreadPoolExecutor) -> None:
        while not self._over.wait(self._pause * self._rng.uniform(0.8, 1.2)):
            up = [one for one in self._victims if one not in self._down]
            if up:
                victim = self._rng.choice(up)
                self._down.add(victim)
                if victim.running:
                    victim.kill()
                    self.kills[victim.name] += 1
                helpers.submit(self._watched, self._revive, victim, self._rng.uniform(0.0, 0.5))

    def _watched(self, what: Callable[..., None], *arguments: object) -> None:
        try:
            what(*arguments)
        except BaseException as error:
            self._failed.append(error)
            raise

    def _revive(self, victim: Process, after: float) -> None:
        time.sleep(after)
        deadline = time.monotonic() + REVIVAL
        while True:
            try:
                victim.start()
            except AssertionError:
                # Its database is away, or it was killed in the middle: then nobody else would start it again.
                if time.monotonic() > deadline:
                    raise
                if victim.running:
                    victim.kill()
                time.sleep(0.2)
            else:
                self._down.discard(victim)
                return
