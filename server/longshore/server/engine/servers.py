"""A server on a shared database says that it is there, and finds the server that has a payload."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from longshore.server.model.clock import Clock
from longshore.server.model.errors import LongshoreError, PayloadElsewhere, PayloadUnreachable
from longshore.server.model.servers import Here, Server
from longshore.server.store.commands.servers import AnnounceServer, RetireServer
from longshore.server.store.protocol import Store

_log = structlog.get_logger("longshore.servers")

ANNOUNCE_EVERY: Final = 3.0
"""Seconds between two signs of life."""
_FAREWELL: Final = 3.0
"""Seconds that a leaving server gives the database to take its entry away."""


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """Shows a server to operators. `unseen` is the seconds since its last sign of life; None means that only its files
    are known. `files` counts the uploads and payloads in its spool, which others may have too."""

    server: Server
    unseen: float | None
    alive: bool
    files: int
    problem: str


class ServerRegistry:
    """Announces this server to those of its database, and knows the others. Call `announce` once before others may need
    it, then `run` until cancelled, and `leave` at a clean end."""

    def __init__(self, *, store: Store, clock: Clock, here: Here, version: str) -> None:
        self._store = store
        self._clock = clock
        self._here = here
        self._announcement = AnnounceServer(here=here, address="", version=version)

    async def announce(self, address: str, *, predecessor: str = "") -> None:
        """Tell the others that workers reach this server at `address`. `predecessor` is the server that had this data
        directory before, and is known to have ended: its uploads need not wait until it counts as dead.

        Raises StoreUnavailable.
        """
        self._announcement = replace(self._announcement, address=address)
        await self._store.run(self._announcement)
        if predecessor:
            await self._store.run(RetireServer(here=replace(self._here, server=predecessor)))

    async def run(self) -> None:
        """Give a sign of life every few seconds. While the database is away nobody can miss one."""
        while True:
            await asyncio.sleep(ANNOUNCE_EVERY)
            try:
                await self._store.run(self._announcement)
            except LongshoreError as error:
                _log.warning("server_not_announced", error=error.message)

    async def leave(self) -> None:
        """Take the entry away, if the database lets us. Otherwise the entry dies by itself."""
        try:
            async with asyncio.timeout(_FAREWELL):
                await self._store.run(RetireServer(here=self._here))
        except (LongshoreError, TimeoutError) as error:
            _log.warning("server_not_retired", error=str(error))

    async def locate(self, payload_id: str) -> None:
        """Return if the payload's file is in this server's spool. Raises PayloadElsewhere, PayloadUnreachable,
        StoreUnavailable."""
        home = await self._store.home(payload_id)
        if home is None or not home.away(self._here):
            return
        ticks = self._clock.ticks()
        having = [server for server in await self._store.servers() if server.spool == home.spool]
        newest = max(having, key=lambda server: server.seen_ticks, default=None)
        if newest is not None and newest.alive(ticks):
            raise PayloadElsewhere(
                f"The payload is in the spool of another server: download it from {newest.address}.",
                server=newest.address,
                spool=home.spool,
            )
        raise PayloadUnreachable(
            f"{_last_known(newest, home.spool, ticks)}, and no server that has this spool is there. Start one, on "
            "whatever machine has the spool.",
            spool=home.spool,
        )

    async def figures(self) -> Sequence[ServerFigures]:
        """List all servers, and all spools with files that no server has, the living first."""
        servers, files = await self._store.servers(), await self._store.files_by_spool()
        ticks = self._clock.ticks()
        reached = {server.spool for server in servers if server.alive(ticks)}
        found = [_figures(server, ticks, files, reached) for server in servers]
        known = {server.spool for server in servers}
        for spool in sorted(files.keys() - known):
            lost = Server("", "", spool, "", 0.0, 0.0)
            found.append(ServerFigures(lost, None, False, files[spool], _missing(files[spool])))
        return sorted(found, key=lambda one: not one.alive)


def _figures(server: Server, ticks: float, files: Mapping[str, int], reached: set[str]) -> ServerFigures:
    count = files.get(server.spool, 0)
    problem = _missing(count) if count and server.spool not in reached else ""
    return ServerFigures(server, max(ticks - server.seen_ticks, 0.0), server.alive(ticks), count, problem)


def _missing(files: int) -> str:
    return f"no server has its spool, and {files} files are in it"


def _last_known(server: Server | None, spool: str, ticks: float) -> str:
    if server is None:
        return f"The payload is in the spool {spool}"
    ago = max(ticks - server.seen_ticks, 0.0)
    return f"The payload is in the spool of the server {server.address} (last seen {ago:.0f} s ago, spool {spool})"
