"""The dispatcher claims tasks for every connection with room, in one command, as soon as there may be something.

Nothing is polled tightly. A claim is made when a commit made something claimable, when room arose, when a worker came,
or beside the command that makes tasks. Claims run one at a time, and the next at once if anything of that happened
meanwhile. A claimed task reaches its worker through the commit (`sessions/commits.py`), never before it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog

from longshore.server.engine.sessions.connection import Holding, WorkerConnection
from longshore.server.engine.sessions.sessions import Sessions
from longshore.server.model.errors import StoreUnavailable
from longshore.server.model.sharing import Shares
from longshore.server.store.commands import Claims, ClaimTasks, Offer
from longshore.server.store.protocol import Changes, Store, nothing

_log = structlog.get_logger("longshore.dispatch")

SAFETY_POLL: Final = 5.0
"""Seconds after which every connection with room is offered, whatever is known: times that pass make no commit."""
SHARE: Final = 64
"""Most tasks for one session in one claim while others have room too, so that the first does not take all."""
PAUSE_FIRST: Final = 0.05
PAUSE_MOST: Final = 2.0
"""Seconds between two tries while the store cannot be written."""


@dataclass(frozen=True, slots=True)
class _Skipped:
    """Marks a connection that was offered and not filled. The connection is skipped until something newer than `news`
    happens, except for targets in `refused`, whose share may free up. With `until_empty` a task waits to run alone,
    and the connection is offered again once its worker holds nothing."""

    news: int
    refused: frozenset[str]
    until_empty: bool = False


class _Claim(NamedTuple):
    """A claim under way: what was offered, which of these connections held attempts then, the news that the claim is to
    know of, and its answer."""

    offered: dict[WorkerConnection, Offer]
    holding: Collection[WorkerConnection]
    news: int
    answer: asyncio.Future[Claims]


def _offer(connection: WorkerConnection, *, contested: bool) -> Offer:
    """Offer what the connection could take; not all at once if others have room too."""
    kept_for = connection.kept_for
    room = connection.room
    return Offer(
        session_id=connection.id,
        epoch=connection.epoch,
        # More than what is kept: of what is not refused altogether, something can be taken now.
        room=min(room, max(SHARE, len(kept_for) + 1)) if contested else room,
        idle=not connection.busy,
        begins=connection.begins,
        revision=connection.session.revision,
        kept_for=kept_for,
        targets=tuple(connection.session.targets),
    )


def _refused(connection: WorkerConnection, offer: Offer, taken: Iterable[str]) -> frozenset[str]:
    """Return the targets of which the connection could take no more attempts after this claim."""
    shares = Shares(room=offer.room, kept_for=offer.kept_for)
    for target in taken:
        shares.take(target)
    return frozenset(target for target in connection.session.targets if not shares.of(target))


class Dispatcher:
    """Claims tasks until cancelled. Cancelling loses nothing: a task that was claimed and not assigned returns with the
    next hello."""

    def __init__(self, *, store: Store, sessions: Sessions, poll: float = SAFETY_POLL) -> None:
        self._store = store
        self._sessions = sessions
        self._fleet = sessions.fleet
        self._poll = poll
        self._bell = asyncio.Event()
        self._waits = False
        """Whether no round is under way."""
        self._begun: _Claim | None = None
        """A claim that was begun ahead of its round."""
        self._news = 0
        """Counts what may have made something claimable."""
        self._skipped: dict[WorkerConnection, _Skipped] = {}
        """Connections that were offered and not filled."""
        self._emptying: set[WorkerConnection] = set()
        """Connections that are left to finish what they hold, so that a task that must run alone can."""
        self._doubtful: set[WorkerConnection] = set()
        """Connections that were offered in a claim whose outcome is not known."""
        self._turn = 0
        self._unsubscribe = store.subscribe(self._on_commit, wants=nothing)
        self._fleet.on_room(self._on_room)
        self._fleet.on_change(self._bell.set)

    def _on_commit(self, changes: Changes) -> None:
        if changes.claimable:
            self._news += 1
            self._bell.set()

    def _on_room(self, connection: WorkerConnection) -> None:
        # Told for each attempt that ends; once the bell rings, the round that comes looks at everybody.
        if not self._bell.is_set() and connection.room > 0 and not self._is_skipped(connection):
            self._bell.set()

    def expect_tasks(self) -> None:
        """Claim now, because tasks are about to be committed: the claim is committed with them, and their start takes
        one commit instead of two. Call it as soon as the command that makes them is in the writer's line, and not
        before: the writer may take the claim alone. The commit itself rings all the same.

        The claim stands in the writer's line when this returns. When it waited for the round's turn of the loop, the
        writer began without it for one lone task in nine, which then started a commit later.
        """
        self._news += 1
        if self._waits and self._begun is None and not self._doubtful:
            try:
                self._begun = self._begin()
            except StoreUnavailable:
                pass  # the round tries it again, and says so
        self._bell.set()

    @property
    def emptying(self) -> Collection[WorkerConnection]:
        """Connections that are left to finish what they hold, so that a task can run alone on one of them."""
        return self._emptying

    async def run(self) -> None:
        """Claim until cancelled."""
        pause = PAUSE_FIRST
        try:
            while True:
                self._waits = True
                try:
                    async with asyncio.timeout(self._poll):
                        await self._bell.wait()
                except TimeoutError:
                    self._news += 1
                self._waits = False
                self._bell.clear()
                try:
                    await self._round()
                    pause = PAUSE_FIRST
                except StoreUnavailable as error:
                    _log.warning("nothing_claimed", error=error.message, pause=pause)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, PAUSE_MOST)
                    self._bell.set()
        finally:
            self._waits = False
            self._unsubscribe()

    async def _round(self) -> None:
        """Claim until no connection with room can be expected to get anything."""
        while True:
            if self._begun is None:
                await self._resolve_doubts()
            claim, self._begun = self._begun or self._begin(), None
            if claim is None:
                return
            claims = await claim.answer
            self._doubtful.difference_update(claim.offered)
            self._learn(claim, claims)

    def _begin(self) -> _Claim | None:
        """Begin a claim. None means that no connection with room can be expected to get anything. Raises
        StoreUnavailable."""
        offered = self._offers()
        if not offered:
            return None
        answer = self._store.begin(ClaimTasks(offers=tuple(offered.values())))
        self._doubtful.update(offered)
        return _Claim(offered, [one for one in offered if one.held], self._news, answer)

    async def _resolve_doubts(self) -> None:
        """Look up what came of claims that failed. Such a claim may have been committed all the same, if the failure
        was in the commit's answer."""
        while self._doubtful:
            connection = next(iter(self._doubtful))
            if not connection.over:
                await self._sessions.commits.adopt(connection)
            self._doubtful.discard(connection)

    def _offers(self) -> dict[WorkerConnection, Offer]:
        """Offer what each connection could take, beginning with another one each time."""
        live = self._fleet.connections()
        self._skipped = {one: skipped for one, skipped in self._skipped.items() if not one.over}
        self._emptying = {one for one in self._emptying if not one.over}
        able = [one for one in live if self._is_able(one)]
        self._turn += 1
        start = self._turn % len(able) if able else 0
        return {one: _offer(one, contested=len(able) > 1) for one in able[start:] + able[:start]}

    def _is_skipped(self, connection: WorkerConnection) -> bool:
        skipped = self._skipped.get(connection)
        if skipped is None or skipped.news != self._news or (skipped.until_empty and not connection.held):
            return False
        # Of a target that was over its share something may be left.
        shares = connection.shares
        return not any(shares.of(target) for target in skipped.refused)

    def _is_able(self, connection: WorkerConnection) -> bool:
        if connection.room < 1 or self._is_skipped(connection):
            return False
        # One that is being emptied is offered when the store too knows it to hold nothing.
        return connection not in self._emptying or not connection.held

    def _learn(self, claim: _Claim, claims: Claims) -> None:
        offered = claim.offered
        taken: defaultdict[str, list[str]] = defaultdict(list)
        alone: set[str] = set()
        for session_id, task in claims.taken:
            taken[session_id].append(task.submission.target)
            if task.status.alone and Holding.of(task).alone:
                alone.add(session_id)
        for connection, offer in offered.items():
            if offer.idle:
                self._emptying.discard(connection)
            # A connection that took a task to run alone was refused the others, and is not dry.
            if len(taken[connection.id]) < offer.room and connection.id not in alone:
                refused = _refused(connection, offer, taken[connection.id])
                until_empty = connection in claim.holding and connection.id in claims.solo_waiting
                self._skipped[connection] = _Skipped(claim.news, refused, until_empty)
        if claims.solo_waiting:
            self._leave_one_to_empty([one for one in offered if one.id in claims.solo_waiting])

    def _leave_one_to_empty(self, candidates: list[WorkerConnection]) -> None:
        """Choose the connection that holds least, unless one that could serve the same targets is being emptied."""
        taken = {target for one in self._emptying for target in one.session.targets}
        if self._emptying and not taken:
            return
        free = [one for one in candidates if one.held and taken.isdisjoint(one.session.targets)]
        if free:
            chosen = min(free, key=lambda one: one.busy)
            self._emptying.add(chosen)
            self._skipped.pop(chosen, None)
            _log.info("emptying_for_solo_task", session_id=chosen.id, busy=chosen.busy)
