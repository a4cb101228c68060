"""A download gives a payload's bytes to the session that holds the attempt, and to nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from longshore.server.engine.sessions.connection import WorkerConnection
from longshore.server.engine.sessions.messages import AttemptRef
from longshore.server.engine.sessions.sessions import Sessions
from longshore.server.model.errors import NotYourAttempt, OffsetBeyondEnd, PayloadGone, SpoolDamaged, StoreUnavailable
from longshore.server.model.task import Payload

PIECE: Final = 512 * 1024
"""Bytes in one message: between the 256 KiB at which protobuf copies least and the 1 MiB of the contract."""
INLINE_AT_MOST: Final = 64 * 1024
"""Payloads up to this size may be in the database instead of the spool."""
ASK_AGAIN: Final = 1.0
"""Seconds for which the store's last answer counts."""


async def download(
    sessions: Sessions, *, session_id: str, ref: AttemptRef, offset: int, principal: str
) -> AsyncIterator[tuple[int, bytes]]:
    """Yield (offset, bytes) from `offset` to the payload's end. The session may be connected to another server.

    Raises NotYourAttempt (at any time: the attempt may be lost on the way), PayloadGone (the attempt has no payload),
    PayloadElsewhere, PayloadUnreachable, OffsetBeyondEnd, SpoolDamaged, StoreUnavailable.
    """
    right = _Right(sessions, session_id, ref, principal)
    payload = await right.payload()
    if offset > payload.size:
        raise OffsetBeyondEnd(f"The payload has {payload.size} bytes, and byte {offset} was asked for.")
    if payload.size <= INLINE_AT_MOST:
        content = await sessions.store.inline_payload(payload.id)
        if content is not None:
            if offset < len(content):
                yield offset, content[offset:]
            return
    if sessions.servers is not None:
        await sessions.servers.locate(payload.id)
    position = offset
    async for piece in sessions.spool.read(payload, offset, PIECE):
        await right.check()
        yield position, piece
        position += len(piece)
    if position != payload.size:
        raise SpoolDamaged(f"Payload {payload.id} ends at byte {position} and should have {payload.size}.")


class _Right:
    """A session's right to a payload's bytes: it holds the attempt that works on it.

    For a session that is connected here the answer is known at once. For others the store is asked, again and again: a
    session moves to other servers while it downloads from this one.
    """

    def __init__(self, sessions: Sessions, session_id: str, ref: AttemptRef, principal: str) -> None:
        self._sessions = sessions
        self._session_id = session_id
        self._ref = ref
        self._principal = principal
        self._asked_at: float | None = None

    async def payload(self) -> Payload:
        """Return the payload that the attempt works on. Raises NotYourAttempt, PayloadGone, StoreUnavailable."""
        connection = self._connection()
        holding = connection.held[self._ref] if connection is not None else None
        payload = holding.payload if holding is not None else await self._stored()
        if payload is None:
            raise PayloadGone("The task works on no payload.", task_id=self._ref.task_id)
        return payload

    async def check(self) -> None:
        """Raise NotYourAttempt as soon as the right is lost; at most ASK_AGAIN seconds later where the session is
        connected to another server."""
        if self._connection() is not None:
            self._asked_at = None
            return
        now = self._sessions.clock.ticks()
        if self._asked_at is None or now - self._asked_at >= ASK_AGAIN:
            try:
                await self._stored()
            except StoreUnavailable:
                return  # while nobody can write, nobody loses an attempt

    def _connection(self) -> WorkerConnection | None:
        """Return the connection here that holds the attempt. None means that the store must be asked."""
        connection = self._sessions.fleet.connection(self._session_id)
        if connection is None or connection.session.principal != self._principal or self._ref not in connection.held:
            return None
        return connection

    async def _stored(self) -> Payload | None:
        self._asked_at = self._sessions.clock.ticks()
        task = await self._sessions.store.task(self._ref.task_id)
        session = await self._sessions.store.session(self._session_id)
        if task is None or session is None or session.principal != self._principal:
            raise _refusal(self._ref)
        if (task.status.session_id, task.status.attempt) != (self._session_id, self._ref.attempt):
            raise _refusal(self._ref)
        return task.submission.payload


def _refusal(ref: AttemptRef) -> NotYourAttempt:
    return NotYourAttempt(
        f"Attempt {ref.attempt} of task {ref.task_id} is not, or no longer, this session's: stop it.",
        task_id=ref.task_id,
    )
