"""A payload's bytes for the session that holds the attempt, and for nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from longshore.server.engine.session_connection import Connection
from longshore.server.engine.session_messages import AttemptRef
from longshore.server.engine.sessions import Sessions
from longshore.server.model.errors import NotYourAttempt, OffsetBeyondEnd, PayloadGone, SpoolDamaged
from longshore.server.model.task import Payload

PIECE: Final = 512 * 1024
"""Bytes in one message: between the 256 KiB at which protobuf copies least and the 1 MiB of the contract."""
INLINE_AT_MOST: Final = 64 * 1024
"""Payloads up to this size may be in the database instead of the spool."""


async def download(
    sessions: Sessions, *, session_id: str, ref: AttemptRef, offset: int, principal: str
) -> AsyncIterator[tuple[int, bytes]]:
    """(offset, bytes) from `offset` to the payload's end.

    Raises NotYourAttempt (at any time: the attempt may be lost on the way), PayloadGone (it works on none),
    OffsetBeyondEnd, SpoolDamaged, StoreUnavailable.
    """
    connection = _connection(sessions, session_id, ref, principal)
    payload = await _payload(sessions, session_id, ref, principal)
    if offset > payload.size:
        raise OffsetBeyondEnd(f"The payload has {payload.size} bytes, and byte {offset} was asked for.")
    if payload.size <= INLINE_AT_MOST:
        content = await sessions.store.inline_payload(payload.id)
        if content is not None:
            if offset < len(content):
                yield offset, content[offset:]
            return
    position = offset
    async for piece in sessions.spool.read(payload, offset, PIECE):
        if connection is not None and _connection(sessions, session_id, ref, principal) is None:
            raise _refusal(ref)
        yield position, piece
        position += len(piece)
    if position != payload.size:
        raise SpoolDamaged(f"Payload {payload.id} ends at byte {position} and should have {payload.size}.")


def _connection(sessions: Sessions, session_id: str, ref: AttemptRef, principal: str) -> Connection | None:
    """The connection here that holds the attempt; None: ask the store."""
    connection = sessions.fleet.connection(session_id)
    if connection is None or connection.session.principal != principal or ref not in connection.held:
        return None
    return connection


async def _payload(sessions: Sessions, session_id: str, ref: AttemptRef, principal: str) -> Payload:
    """What the attempt works on, if it is the session's; the store is not asked where the session is connected here."""
    connection = _connection(sessions, session_id, ref, principal)
    holding = connection.held[ref] if connection is not None else None
    if holding is not None:
        payload = holding.payload
    else:
        task = await sessions.store.task(ref.task_id)
        session = await sessions.store.session(session_id)
        if task is None or session is None or session.principal != principal:
            raise _refusal(ref)
        if (task.status.session_id, task.status.attempt) != (session_id, ref.attempt):
            raise _refusal(ref)
        payload = task.order.payload
    if payload is None:
        raise PayloadGone("The task works on no payload.", task_id=ref.task_id)
    return payload


def _refusal(ref: AttemptRef) -> NotYourAttempt:
    return NotYourAttempt(
        f"Attempt {ref.attempt} of task {ref.task_id} is not, or no longer, this session's: stop it.",
        task_id=ref.task_id,
    )
