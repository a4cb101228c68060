"""What each target says it is, for the hello: a name stays bound to one daemon."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial

from longshore.worker.errors import AttemptError
from longshore.worker.targets.base import Target
from longshore.worker.threads import Threads


class Identities:
    """Asks daemons who they are, each in a thread of its own; one that is down or hangs is asked again later."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        self._asking: set[str] = set()
        self._threads = {name: Threads(f"longshore-identity-{name}", limit=1) for name in targets}

    def known(self) -> dict[str, str]:
        """Those that have answered, by name."""
        with self._lock:
            return dict(self._known)

    def missing(self) -> bool:
        """Some have not answered yet."""
        with self._lock:
            return len(self._known) < len(self._targets)

    def ask(self, answered: Callable[[], None]) -> None:
        """Ask those that have not answered; `answered` is called from a thread for each one that does."""
        for name, target in self._targets.items():
            with self._lock:
                if name in self._known or name in self._asking:
                    continue
                self._asking.add(name)
            self._threads[name].run(partial(self._ask, target, answered))

    def close(self) -> None:
        """End idle threads."""
        for threads in self._threads.values():
            threads.close()

    def _ask(self, target: Target, answered: Callable[[], None]) -> None:
        identity = None
        try:
            identity = target.identity()
        except AttemptError:
            identity = None  # Asked again later; until then the hello says that it is not known.
        with self._lock:
            self._asking.discard(target.name)
            if identity is not None:
                self._known[target.name] = identity
        if identity is not None:
            answered()
