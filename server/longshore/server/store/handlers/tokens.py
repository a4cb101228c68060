"""The database holds tokens. Servers read them; `longshored token` makes and revokes them beside running servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from longshore.server.model.access import Role, Token, roles_text
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Among, statement
from longshore.server.store.tables.rows import Row
from longshore.server.store.tables.schema import tokens

_ROLES: Final = frozenset(role.value for role in Role)
_COLUMNS: Final = (
    tokens.c.id,
    tokens.c.name,
    tokens.c.digest,
    tokens.c.roles,
    tokens.c.created_at,
    tokens.c.expires_at,
    tokens.c.revoked_at,
)
_BY_ID: Final = Among(lambda keys: sa.select(*_COLUMNS).where(tokens.c.id.in_(keys)))
_ALL: Final = statement(sa.select(*_COLUMNS).order_by(tokens.c.created_at, tokens.c.id))
_VALID: Final = statement(
    sa.select(sa.literal(1))
    .where(tokens.c.revoked_at.is_(None))
    .where(sa.or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > sa.bindparam("now")))
    .limit(1)
)
_INSERT: Final = statement(sa.insert(tokens))
_REVOKE: Final = statement(
    sa.update(tokens)
    .where(tokens.c.id == sa.bindparam("token_id"), tokens.c.revoked_at.is_(None))
    .values(revoked_at=sa.bindparam("now"))
)


def tokens_of(link: Link, ids: Sequence[str]) -> list[Token]:
    """Return the tokens with these ids that exist, revoked and expired ones included."""
    return [_token(row) for row in link.among(_BY_ID, ids)]


def all_tokens(link: Link) -> list[Token]:
    """Return all tokens, the oldest first."""
    return [_token(row) for row in link.rows(_ALL)]


def has_valid(link: Link, now: float) -> bool:
    """Tell whether a token exists that is neither revoked nor expired."""
    return link.row(_VALID, now=now) is not None


def add(link: Link, token: Token) -> None:
    """Add a token. The caller has begun a transaction that writes."""
    link.run(
        _INSERT,
        id=token.id,
        name=token.name,
        digest=token.digest,
        roles=roles_text(token.roles),
        created_at=token.created_at,
        expires_at=token.expires_at,
        revoked_at=token.revoked_at,
    )


def revoke(link: Link, token_id: str, now: float) -> bool:
    """Revoke a token, and answer whether it was valid until now, or expired. The caller has begun a transaction that
    writes."""
    return link.run(_REVOKE, token_id=token_id, now=now) == 1


def _token(row: Row) -> Token:
    token_id, name, digest, roles, created_at, expires_at, revoked_at = row
    return Token(
        id=token_id,
        name=name,
        digest=bytes(digest),
        # Roles of a newer version are left out: without them the token permits less, not more.
        roles=frozenset(Role(role) for role in roles.split(",") if role in _ROLES),
        created_at=created_at,
        expires_at=expires_at,
        revoked_at=revoked_at,
    )
