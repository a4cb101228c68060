"""Sessions kept for the next push into the same instance, but not for long.

A daemon does not stop, start or delete an instance while an SFTP session with it is open; a command that asks for it
waits. So a session is closed after about a second without use, and after a few seconds even when it is busy: under
steady traffic a waiting `lxc stop` then gets its turn, because the daemon opens no new session while it waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from longshore.worker.targets.sftp.session import SftpSession

IDLE_S: Final = 1.0
MAX_AGE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class PooledInstance:
    """An instance."""

    project: str
    instance: str


@dataclass(slots=True)
class _Kept:
    session: SftpSession
    opened: float
    idle_since: float


class SessionPool:
    """Hands out sessions, each to one thread at a time. Safe to use from many threads."""

    def __init__(
        self,
        *,
        idle_s: float = IDLE_S,
        max_age_s: float = MAX_AGE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._idle_s = idle_s
        self._max_age_s = max_age_s
        self._clock = clock
        self._idle: dict[PooledInstance, list[_Kept]] = {}
        self._busy: dict[SftpSession, float] = {}
        self._changed = threading.Condition()
        self._reaper: threading.Thread | None = None
        self._reaper_rests = False
        """Whether the reaper has nothing to wait for. Otherwise it wakes by itself: a session that is idle later is due
        later."""
        self._closed = False

    def take(self, key: PooledInstance, connect: Callable[[], SftpSession]) -> SftpSession:
        """Return an idle session that is still good, or a new one. Raises what connecting raises."""
        while True:
            with self._changed:
                kept = self._idle.get(key, [])
                candidate = kept.pop() if kept else None
                if candidate is not None:
                    self._busy[candidate.session] = candidate.opened
            if candidate is None:
                break
            if candidate.session.usable:
                return candidate.session
            self._forget(candidate.session)
        session = connect()
        with self._changed:
            self._busy[session] = self._clock()
            closed = self._closed
        if closed:
            self._forget(session)
            raise EOFError("the target is closed")
        return session

    def give_back(self, key: PooledInstance, session: SftpSession) -> None:
        """Keep a session for the next push, if it is in step and young."""
        good = session.usable
        now = self._clock()
        with self._changed:
            opened = self._busy.pop(session, now)
            if good and not self._closed and now - opened < self._max_age_s:
                self._idle.setdefault(key, []).append(_Kept(session, opened, now))
                if self._reaper is None:
                    self._reaper = threading.Thread(target=self._reap, name="longshore-sftp-idle", daemon=True)
                    self._reaper.start()
                if self._reaper_rests:
                    self._changed.notify()
                return
        session.close()

    def close_idle(self) -> None:
        """Close the idle sessions."""
        self._close_older_than(0.0)

    def close(self) -> None:
        """Close everything, busy sessions too: their users end with a broken connection."""
        with self._changed:
            self._closed = True
            busy = list(self._busy)
            self._changed.notify()
        self._close_older_than(0.0)
        for session in busy:
            session.abort()

    def statistics(self) -> tuple[int, int]:
        """Count the sessions that are idle and busy now."""
        with self._changed:
            return sum(map(len, self._idle.values())), len(self._busy)

    def _forget(self, session: SftpSession) -> None:
        with self._changed:
            self._busy.pop(session, None)
        session.close()

    def _close_older_than(self, idle_s: float) -> float | None:
        """Close the sessions that were idle for so long. Returns the seconds until the next one is due. None means that
        none is left."""
        doomed: list[SftpSession] = []
        left: list[float] = []
        with self._changed:
            now = self._clock()
            for key, kept in list(self._idle.items()):
                stay = [k for k in kept if now - k.idle_since < idle_s]
                doomed += [k.session for k in kept if now - k.idle_since >= idle_s]
                left += [idle_s - (now - k.idle_since) for k in stay]
                if stay:
                    self._idle[key] = stay
                else:
                    del self._idle[key]
        for session in doomed:
            session.close()
        return min(left, default=None)

    def _reap(self) -> None:
        while True:
            due = self._close_older_than(self._idle_s)
            with self._changed:
                if self._closed and not self._idle:
                    return
                if due is not None or not self._idle:
                    self._reaper_rests = due is None
                    self._changed.wait(due)
                    self._reaper_rests = False
