"""Tokens and roles: they decide which callers may use a server, and what each of them may do."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

LOCAL_NAME: Final = "local"
"""The principal of the token that the data directory holds. No other token or certificate may take the name."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/:+-]{0,199}")
_TOKEN: Final = re.compile(r"ls_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_ID_BYTES: Final = 8
_SECRET_BYTES: Final = 32


class Role(StrEnum):
    """A role says what a caller may do. The rights of several roles add up."""

    SUBMIT = "submit"
    """The caller may upload and submit, and do everything with its own tasks."""
    WORK = "work"
    """The caller may hold sessions, and read the tasks that they hold."""
    OPERATE = "operate"
    """The caller may see and change all tasks, queues and workers."""


ALL_ROLES: Final = frozenset(Role)


def parse_roles(words: Iterable[str]) -> frozenset[Role]:
    """Read roles from their names. Raises ValueError, which says what is wrong with them."""
    found = set()
    for word in words:
        try:
            found.add(Role(word.strip()))
        except ValueError:
            known = ", ".join(Role)
            raise ValueError(f"{word!r} is no role; there are {known}.") from None
    if not found:
        raise ValueError("No role is given.")
    return frozenset(found)


def roles_text(roles: Iterable[Role]) -> str:
    """Write roles as they are stored and shown: by name, with commas, in one order."""
    return ",".join(role for role in Role if role in set(roles))


def check_name(name: str) -> str:
    """Check a principal's name and return it. Raises ValueError, which says what is wrong with it."""
    if name == LOCAL_NAME:
        raise ValueError(f"{name!r} is the owner of the data directory; choose another name.")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name[:200]!r} is no name: letters, digits and ._@/:+- are allowed, 200 at most, a letter or digit first."
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token as the store has it: everything but the secret. Times are wall-clock seconds of the database."""

    id: str
    name: str
    digest: bytes
    roles: frozenset[Role]
    created_at: float
    expires_at: float | None
    revoked_at: float | None

    def refused(self, now: float) -> str:
        """Say why the token is refused. An empty text means that it is valid."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and now >= self.expires_at:
            return "expired"
        return ""


@dataclass(frozen=True, slots=True)
class Secret:
    """A token in its holder's hands: `ls_ID_SECRET`. Never logged, and stored as a digest only."""

    id: str
    secret: str

    def __str__(self) -> str:
        return f"ls_{self.id}_{self.secret}"

    def __repr__(self) -> str:
        return f"<token {self.id}>"

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the secret. The secret has 256 random bits, so that a slow hash would add nothing."""
        return hashlib.sha256(self.secret.encode()).digest()


def new_secret() -> Secret:
    """Make a new, random token."""
    return Secret(secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES))


def read_secret(text: str) -> Secret | None:
    """Read the token that a caller showed. None means that the text has not the form of a token."""
    match = _TOKEN.fullmatch(text)
    return None if match is None else Secret(match[1], match[2])


class LocalToken:
    """The token of the data directory."""

    def __init__(self, token: str) -> None:
        self._digest = hashlib.sha256(token.encode()).digest()

    def matches(self, shown: str) -> bool:
        """Compare digests, which have one length, so that the comparison tells nothing about the token's length."""
        return hmac.compare_digest(hashlib.sha256(shown.encode()).digest(), self._digest)
