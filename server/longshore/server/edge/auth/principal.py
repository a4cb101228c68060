"""Who is calling. The interceptor finds out, and leaves the principal where services read it with `principal()`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Protocol

from longshore.server.model.access import ALL_ROLES, LOCAL_NAME, Role
from longshore.server.model.errors import LongshoreError


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. Tasks belong to its name; several tokens, or a token and a certificate, may have the same."""

    name: str
    roles: frozenset[Role]

    @property
    def operator(self) -> bool:
        """Sees and changes everybody's tasks."""
        return Role.OPERATE in self.roles

    @property
    def works(self) -> bool:
        """Has sessions, and reads what they hold."""
        return Role.WORK in self.roles

    @property
    def scope(self) -> str | None:
        """The creator whose tasks it may see; None: everybody's."""
        return None if self.operator else self.name


LOCAL: Final = Principal(LOCAL_NAME, ALL_ROLES)
"""Whoever holds the generated token: the user that owns the data directory."""


class Stream(Protocol):
    """A call that may outlive what it was let in with, and then must end."""

    def end_by(self, end: Callable[[LongshoreError], None] | None) -> None:
        """How to end it, instead of cancelling its handler; None: by cancelling again."""
        ...


_principal: ContextVar[Principal] = ContextVar("longshore_principal")
_stream: ContextVar[Stream | None] = ContextVar("longshore_stream", default=None)


def principal() -> Principal:
    """The caller of the RPC at hand."""
    return _principal.get()


def known() -> Principal | None:
    """The caller of the RPC at hand; None: nobody was found out, or asked for."""
    return _principal.get(None)


def enter(caller: Principal, stream: Stream | None = None) -> None:
    """The caller of the RPC at hand is this one. For the interceptor."""
    _principal.set(caller)
    if stream is not None:
        _stream.set(stream)


@contextmanager
def ended_by(end: Callable[[LongshoreError], None]) -> Iterator[None]:
    """Within: when the caller's token is over, `end` is called instead of cancelling the handler, which must then come
    to its end by itself, with this error. For handlers that must not be cancelled while they write."""
    stream = _stream.get()
    if stream is None:
        yield
        return
    stream.end_by(end)
    try:
        yield
    finally:
        stream.end_by(None)
