"""A worker asks each target for its identity: at the start, after each doubt, and again and again while the target does
not answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from longshore.v1 import task_pb2 as tp
from longshore.worker.agent.outbox import Outbox
from longshore.worker.attempts.mailbox import Mailbox
from longshore.worker.attempts.threads import Threads
from longshore.worker.errors import AttemptError, Reason
from longshore.worker.targets.base import Target

_log: Final = structlog.stdlib.get_logger("longshore.worker")


@dataclass(frozen=True, slots=True)
class _Answer:
    """A target has answered with its identity, or has failed with an error."""

    identity: str = ""
    error: AttemptError | None = None


class TargetConditions:
    """Asks daemons for their identities, each in a thread of its own. `known`, `tell` and `recheck` are for the agent's
    loop."""

    def __init__(self, targets: Mapping[str, Target], *, mailbox: Mailbox, outbox: Outbox) -> None:
        self._targets = targets
        self._mailbox = mailbox
        self._outbox = outbox
        self._lock = threading.Lock()
        self._asking: set[str] = set()
        self._threads = {name: Threads(f"longshore-identity-{name}", limit=1) for name in targets}
        self._identities: dict[str, str] = {}
        self._problems: dict[str, tp.TaskError] = {}
        self._on_identity: Callable[[], None] | None = None
        """Called for each target that tells its identity for the first time."""

    def known(self) -> dict[str, str]:
        """Return the identities of the targets that have told theirs, by name."""
        return dict(self._identities)

    @property
    def missing(self) -> bool:
        """Return whether some targets have not told their identity yet."""
        return len(self._identities) < len(self._targets)

    def on_identity(self, listener: Callable[[], None]) -> None:
        """Call `listener` in the loop whenever a target has told its identity for the first time."""
        self._on_identity = listener

    def ask(self) -> None:
        """Ask the targets that have not told their identity, and those that cannot be used."""
        for name in self._targets:
            if name not in self._identities or name in self._problems:
                self._ask(name)

    def recheck(self, target: str) -> None:
        """Ask this target, because an attempt on it has failed. A target that this worker does not serve is left
        alone."""
        if target in self._targets:
            self._ask(target)

    def fell_silent(self, seconds: float) -> None:
        """Report each target that has not answered at all in these first seconds: it cannot be used."""
        for name in self._targets:
            if name not in self._identities and name not in self._problems:
                self._found(name, tp.TaskError(reason=Reason.TARGET_TIMEOUT, message=f"no answer for {seconds:g} s"))

    def tell(self) -> None:
        """Say of every target how it is found: the server may know it from another connection, or not at all."""
        for name in self._targets:
            self._outbox.condition(name, self._problems.get(name))

    def close(self) -> None:
        """End idle threads."""
        for threads in self._threads.values():
            threads.close()

    def _ask(self, name: str) -> None:
        with self._lock:
            if name in self._asking:
                return
            self._asking.add(name)
        self._threads[name].run(partial(self._look, self._targets[name]))

    def _look(self, target: Target) -> None:
        try:
            answer = _Answer(identity=target.identity())
        except AttemptError as error:
            answer = _Answer(error=error)
        finally:
            with self._lock:
                self._asking.discard(target.name)
        self._mailbox.post(partial(self._answered, target.name, answer))

    def _answered(self, name: str, answer: _Answer) -> None:
        if answer.error is not None:
            self._found(name, tp.TaskError(reason=answer.error.reason, message=answer.error.message, transient=True))
            return
        new = name not in self._identities
        self._identities.setdefault(name, answer.identity)
        self._found(name, None)
        if new and self._on_identity is not None:
            self._on_identity()

    def _found(self, name: str, problem: tp.TaskError | None) -> None:
        before = self._problems.pop(name, None)
        if problem is not None:
            self._problems[name] = problem
            if before is None or before.reason != problem.reason:
                _log.warning("target_unusable", target=name, reason=problem.reason, error=problem.message)
        elif before is not None:
            _log.info("target_usable", target=name, was=before.reason)
        if problem != before:
            self._outbox.condition(name, problem)
