"""The janitor does what time brings: due tasks, expiry, time-outs, lost leases, and the removal of payloads and
history.

Every step is a conditional command, so that any number of janitors is harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final

import structlog

from longshore.server.model.agenda import agenda_of
from longshore.server.model.clock import Clock
from longshore.server.model.errors import LongshoreError
from longshore.server.model.servers import Here
from longshore.server.spool.protocol import Spool
from longshore.server.store.commands import (
    AbandonIdleUploads,
    DoomPayloads,
    ExtendLeases,
    ForgetPayloads,
    ForgetUploads,
    PurgeTasks,
    ReapSessions,
    ReleaseFollowers,
    Tick,
)
from longshore.server.store.protocol import Changes, Store, nothing

_log = structlog.get_logger("longshore.janitor")

_DAY: Final = 24 * 3600.0
_LONGEST_SLEEP: Final = 30.0
"""Seconds after which the janitor looks again, whatever it was told: a safety net for other servers' commits."""
_SHORTEST_SLEEP: Final = 0.005
_TIDY_EVERY: Final = 60.0
_RELEASE_EVERY: Final = 30.0
_TIDY_PAUSE: Final = 0.1
"""Seconds for which endings are gathered before payloads are unlinked: unlinking slows the syncs of others."""
_PURGES: Final = 12
"""Purges within the time of the history, so that the database holds little more than the history."""
_PURGE_EVERY: Final = 3600.0
_PURGE_PAUSE: Final = 1.0
"""Bounds, in seconds, for the time between two purges."""
_SWEEP_EVERY: Final = 6 * 3600.0
_SWEPT_AT_ONCE: Final = 1000
_RETRY_AFTER: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JanitorSettings:
    """Times in seconds."""

    lease: float = 6.0
    upload_idle: float = 600.0
    """An open upload is given up after so long without a sign of life. Clients are told (`Upload.expire_time`)."""
    history: float = 7 * _DAY
    """Finished tasks, and so their request ids, are remembered for so long."""
    alone: bool = True
    """Whether no other server has the database. Then no lease could be renewed since the last server ended."""


class Janitor:
    """Runs the janitor's loops until cancelled. Call `prepare` first, once, before anything is served.

    `here` means that other servers have the database too, perhaps with spools of their own: only files of this one's
    spool are removed.
    """

    def __init__(
        self, *, store: Store, spool: Spool, clock: Clock, settings: JanitorSettings, here: Here | None = None
    ) -> None:
        self._store = store
        self._spool = spool
        self._clock = clock
        self._settings = settings
        self._here = None if here is None else here.spool
        self._time_bell = asyncio.Event()
        self._tidy_bell = asyncio.Event()
        self._uploads_at = float("-inf")
        """When idle uploads are looked for again, in ticks."""
        # Tasks that came due before the start are due now.
        self._next_at: float | None = clock.now()
        self._next_ticks: float | None = None
        self._looked_at = self._awake_since = clock.ticks()
        store.subscribe(self._on_commit, wants=nothing)

    async def prepare(self) -> None:
        """Let leases run from now, unless other servers kept them."""
        if self._settings.alone:
            await self._store.run(ExtendLeases(lease=self._settings.lease))
        self._tidy_bell.set()  # what the server before this one had begun to remove

    async def run(self) -> None:
        """Run all loops until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._forever(self._keep_time), name="janitor: time")
            loops.create_task(self._forever(self._reap), name="janitor: leases")
            loops.create_task(self._forever(self._tidy), name="janitor: payloads")
            loops.create_task(self._forever(self._release), name="janitor: followers")
            loops.create_task(self._forever(self._purge), name="janitor: history")
            loops.create_task(self._forever(self._sweep), name="janitor: strays")

    async def free_spool(self, wanted: int) -> None:
        """Free `wanted` bytes of spool by evicting payloads that are kept for a retry only, the oldest first."""
        await self._delete_payloads(free=wanted)

    def _on_commit(self, changes: Changes) -> None:
        if changes.clock_set:
            self._next_at = self._clock.now()
            self._time_bell.set()
        agenda = changes.agenda or agenda_of(change.task for change in changes.tasks)
        if agenda.payloads:
            self._tidy_bell.set()
        if agenda.at is not None and (self._next_at is None or agenda.at < self._next_at):
            self._next_at = agenda.at
            self._time_bell.set()
        if agenda.ticks is not None and (self._next_ticks is None or agenda.ticks < self._next_ticks):
            self._next_ticks = agenda.ticks
            self._time_bell.set()

    async def _forever(self, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat a step, also after an error that may pass (the database is away, the disk is full)."""
        while True:
            try:
                await step()
            except (LongshoreError, OSError) as error:
                _log.warning("janitor_step_failed", step=step.__name__.lstrip("_"), error=str(error))
                await asyncio.sleep(_RETRY_AFTER)

    async def _keep_time(self) -> None:
        rang = await self._ring_or(self._time_bell, self._until_next())
        self._time_bell.clear()
        if rang and self._until_next() > 0:
            return  # only the alarm was set anew
        # Forgotten before the command and merged after it: commits that land meanwhile set alarms of their own.
        self._next_at = self._next_ticks = None
        try:
            ticked = await self._store.run(Tick())
        except LongshoreError:
            self._next_at = self._clock.now()  # the alarm still rings: nothing of what it was for is done
            raise
        self._next_at = _earlier(self._next_at, ticked.next_at)
        self._next_ticks = _earlier(self._next_ticks, ticked.next_ticks)
        if ticked.more:
            self._next_at = self._clock.now()
        else:
            await asyncio.sleep(_SHORTEST_SLEEP)

    def _until_next(self) -> float:
        """Return the seconds until something is due; at most the longest sleep."""
        waits = [_LONGEST_SLEEP]
        if self._next_at is not None:
            waits.append(self._next_at - self._clock.now())
        if self._next_ticks is not None:
            waits.append(self._next_ticks - self._clock.ticks())
        return min(waits)

    @staticmethod
    async def _ring_or(bell: asyncio.Event, seconds: float) -> bool:
        """Wait for the bell, `seconds` at most, and return whether it rang."""
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                return await bell.wait()
        except TimeoutError:
            return False

    async def _reap(self) -> None:
        lease = self._settings.lease
        await asyncio.sleep(lease / 6)
        now = self._clock.ticks()
        if now - self._looked_at > lease / 2:
            # This process was stopped, or the machine slept: what workers said meanwhile is still unread.
            self._awake_since = now
        self._looked_at = now
        since = self._store.writable_since
        # A fleet that could not renew because the database was away is not a lost fleet.
        if since is None or now - max(since, self._awake_since) < lease:
            return
        # As of now: should the command wait behind a commit that hangs, the renewals in that commit are not too old.
        lost = await self._store.run(ReapSessions(before=now))
        if lost:
            await self._say_lost(lost)

    async def _say_lost(self, lost: tuple[str, ...]) -> None:
        names: dict[str, str] = {}
        try:
            ended = await self._store.ended_sessions(since=self._clock.now(), also=lost)
            names = {one.session.id: one.session.worker for one in ended}
        finally:
            for session_id in lost:
                _log.warning("session_lost", session_id=session_id, worker=names.get(session_id, ""))

    async def _release(self) -> None:
        """Tell followers of ends that a server had begun to tell, and died."""
        while ended := await self._store.left_followers():
            await self._store.run(ReleaseFollowers(ended=tuple(ended)))
        await asyncio.sleep(_RELEASE_EVERY)

    async def _tidy(self) -> None:
        await self._ring_or(self._tidy_bell, _TIDY_EVERY)
        self._tidy_bell.clear()
        await asyncio.sleep(_TIDY_PAUSE)
        now = self._clock.ticks()
        if now >= self._uploads_at:
            # Not whenever a task ends: that is many times a second, on every server.
            await self._give_up_uploads()
            self._uploads_at = now + _TIDY_EVERY / 2
        while await self._delete_payloads(free=0):
            pass

    async def _give_up_uploads(self) -> None:
        abandoned = await self._store.run(AbandonIdleUploads(idle=self._settings.upload_idle, spool=self._here))
        await _all(self._spool.delete_upload(upload_id) for upload_id in abandoned)
        if abandoned:
            await self._store.run(ForgetUploads(upload_ids=abandoned, homes=self._here is not None))

    async def _delete_payloads(self, *, free: int) -> bool:
        doomed = await self._store.run(DoomPayloads(free=free, spool=self._here))
        await _all(self._spool.delete_payload(payload_id) for payload_id in doomed)
        if doomed:
            await self._store.run(ForgetPayloads(payload_ids=doomed, homes=self._here is not None))
        return bool(doomed)

    async def _sweep(self) -> None:
        """Move files that have no row and are older than a day to the trash. This runs beside the service, because an
        object store takes a while to list a million files. Rows are written before files, so a file that has no row
        after the listing belongs to no task."""
        old = await self._spool.files_older_than(_DAY)
        for start in range(0, len(old), _SWEPT_AT_ONCE):
            some = old[start : start + _SWEPT_AT_ONCE]
            known = await self._store.known_files(some, spool=self._here)
            strays = [one for one in some if one not in known]
            if strays:
                _log.warning("strays_to_trash", files=len(strays))
                await self._spool.to_trash(strays)
        await asyncio.sleep(_SWEEP_EVERY)

    async def _purge(self) -> None:
        while await self._store.run(PurgeTasks(age=self._settings.history)):
            _log.debug("history_purged")
        await self._spool.to_trash(())  # what has been there for a day goes
        await asyncio.sleep(min(max(self._settings.history / _PURGES, _PURGE_PAUSE), _PURGE_EVERY))


async def _all(removals: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all removals, and raise the first error. The spool itself bounds how many go on at once, because an
    object store takes its time for each."""
    for error in await asyncio.gather(*removals, return_exceptions=True):
        if error is not None:
            raise error


def _earlier(one: float | None, other: float | None) -> float | None:
    return min((time for time in (one, other) if time is not None), default=None)
