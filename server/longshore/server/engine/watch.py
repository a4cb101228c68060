"""A watch sends every revision of a task once, in order, to the caller that asks.

The events table is the truth; the hub only tells a watcher that there is something new. What a commit brings is handed
to the watchers of that task directly when it continues what they have seen, so that a live watcher costs no read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from longshore.server.model.errors import NotFound, RevisionAhead
from longshore.server.model.task import Task
from longshore.server.store.protocol import Changes, Moved, Store
from longshore.server.store.tables.ids import seq_of

KEEPALIVE: Final = 15.0
"""Seconds of silence after which a watcher is told that the connection is alive."""

LOOKS: Final = 10
"""Looks at the silence of each watch in that time: a keepalive comes up to a tenth of it late, or early."""

BUFFERED: Final = 64
"""Revisions kept for a slow watcher. When more came, it reads them from the store when it gets there."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Tells where an attempt is: units done of `total`. 0 means that the total is not known."""

    attempt: int
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """An update that says that nothing happened."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """An update that says that the server is leaving: the caller resumes elsewhere."""

    reason: str


Update = Task | Progress | KeepAlive | Leaving


class ProgressSource(Protocol):
    """Gives the newest byte progress of a task, and calls a listener when it moves."""

    def latest(self, task_id: str) -> Progress | None: ...

    def subscribe(self, task_id: str, listener: Callable[[], None]) -> Callable[[], None]: ...


class _Watcher:
    """Keeps the revisions of one open watch, and a bell. There may be ten thousand watchers, so each is kept small: an
    asyncio.Event and a deque would be 1.3 KB, a time-out for each as much again."""

    __slots__ = ("_waiting", "looks", "overflowed", "pending", "rung", "silent")

    def __init__(self) -> None:
        self.pending: list[Task] = []
        self.overflowed = False
        self.rung = False
        self.silent = False
        """Whether the bell is rung because nothing had happened for the time of a keepalive."""
        self.looks = 0
        """Looks of the hub since something happened."""
        self._waiting: asyncio.Future[None] | None = None

    def offer(self, task: Task) -> None:
        if len(self.pending) >= BUFFERED:
            self.pending.clear()
            self.overflowed = True
        if not self.overflowed:
            self.pending.append(task)
        self.ring()

    def ring(self, *, silent: bool = False) -> None:
        self.rung, self.silent = True, silent
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def look(self, patience: int) -> None:
        """Ring after so many looks at silence."""
        self.looks += 1
        if self.looks >= patience and not self.rung:
            self.ring(silent=True)

    async def wait(self) -> bool:
        """Wait until the bell is rung, and return whether that was for silence alone. Only one caller may wait at a
        time. Cancelling loses nothing."""
        if not self.rung:
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        silent = self.silent
        self.rung = self.silent = False
        self.looks = 0
        return silent

    def take(self) -> tuple[list[Task], bool]:
        """Take the revisions that came; answers with them, and with whether the store must be asked for them."""
        taken, overflowed = self.pending, self.overflowed
        self.pending, self.overflowed = [], False
        return taken, overflowed


class WatchHub:
    """All open watches of this server. `drain` ends them with `Leaving`."""

    def __init__(self, *, store: Store, progress: ProgressSource, keepalive: float = KEEPALIVE) -> None:
        self._store = store
        self._progress = progress
        self._keepalive = keepalive
        self._watchers: dict[int, set[_Watcher]] = {}
        """Maps the numbers of tasks to their watchers. Numbers are what is known of other servers' commits."""
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._leaving = False
        self._unsubscribe = store.subscribe(self._on_commit, wants=self._wants)

    def statistics(self) -> int:
        """Count the open watches."""
        return self._count

    def drain(self) -> None:
        """End every watch, and each new one at once."""
        self._leaving = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.ring()

    def close(self) -> None:
        self.drain()
        self._unsubscribe()
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        """Let every watch look at its silence. One timer serves all, and looks several times in a keepalive's time."""
        self._timer = None
        if self._count:
            for watchers in self._watchers.values():
                for watcher in watchers:
                    watcher.look(LOOKS)
            self._keep_looking()

    def _keep_looking(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._keepalive / LOOKS, self._look)

    def _wants(self, moved: Moved) -> bool:
        return moved.seq in self._watchers

    def _on_commit(self, changes: Changes) -> None:
        if not self._watchers:
            return
        for change in changes.tasks:
            for watcher in self._watchers.get(change.task.submission.seq, ()):
                watcher.offer(change.task)

    async def watch(self, task_id: str, *, after: int | None, creator: str | None) -> AsyncIterator[Update]:
        """Yield every revision of the task after `after`, ending with the terminal one. `after` None means that the
        task as it is comes first.

        Raises NotFound, RevisionAhead. Cancelling the iteration closes the watch.
        """
        watcher = _Watcher()
        # What is no id is nobody's: the read finds no task.
        seq = seq_of(task_id) or 0
        self._watchers.setdefault(seq, set()).add(watcher)
        self._count += 1
        self._keep_looking()
        forget = self._progress.subscribe(task_id, watcher.ring)
        try:
            # The watcher is registered before the read, so that no commit falls between the two.
            current = await self._store.task(task_id, creator=creator)
            if current is None:
                raise NotFound(f"There is no task {task_id!r} of yours, or its history is removed.", task_id=task_id)
            if after is None:
                yield current
                seen = current.status.revision
                if current.status.state.terminal:
                    return
            else:
                if after > current.status.revision:
                    raise RevisionAhead(
                        f"The task is at revision {current.status.revision}, before {after}: read it anew.",
                        revision=str(current.status.revision),
                    )
                seen = after
                async for task in self._stored(task_id, seen):
                    yield task
                    seen = task.status.revision
                    if task.status.state.terminal:
                        return
                if current.status.state.terminal:
                    return
            async for update in self._live(task_id, watcher, seen):
                yield update
        finally:
            forget()
            self._count -= 1
            watchers = self._watchers[seq]
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[seq]

    async def _stored(self, task_id: str, after: int) -> AsyncIterator[Task]:
        while page := await self._store.history(task_id, after=after):
            for task in page:
                yield task
                after = task.status.revision

    async def _live(self, task_id: str, watcher: _Watcher, seen: int) -> AsyncIterator[Update]:
        # Known progress is sent at once: a caller that looks once, as `get` does, waits for no movement.
        progress = self._progress.latest(task_id)
        if progress is not None:
            yield progress
        while True:
            if self._leaving:
                yield Leaving("DRAINING")
                return
            silent = await watcher.wait()
            if silent and not self._leaving:
                yield KeepAlive()
                continue
            came, overflowed = watcher.take()
            # A gap, also one between two that came, is from an overflow or from another server's commits that were
            # not heard one by one; the store fills it.
            fresh = [task for task in came if task.status.revision > seen]
            if overflowed or (fresh and fresh[-1].status.revision != seen + len(fresh)):
                fresh = [task async for task in self._stored(task_id, seen)]
            for task in fresh:
                yield task
                seen = task.status.revision
                if task.status.state.terminal:
                    return
            newest = self._progress.latest(task_id)
            if newest is not None and newest != progress:
                progress = newest
                yield newest
