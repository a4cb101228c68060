"""The interceptor finds out which principal calls, and leaves it where services read it with `principal()`."""

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
        """Tell whether the principal sees and changes the tasks of all callers."""
        return Role.OPERATE in self.roles

    @property
    def works(self) -> bool:
        """Tell whether the principal has sessions, and reads the tasks that they hold."""
        return Role.WORK in self.roles

    @property
    def scope(self) -> str | None:
        """Return the creator whose tasks this principal may see. None means that it sees all tasks."""
        return None if self.operator else self.name


LOCAL: Final = Principal(LOCAL_NAME, ALL_ROLES)
"""The principal of the generated token, whose holder is the user that owns the data directory."""


class EndableCall(Protocol):
    """A call that may outlive the token that let it in, and then must end."""

    def end_by(self, end: Callable[[LongshoreError], None] | None) -> None:
        """Set what ends the call, instead of cancelling its handler. None means that it is cancelled again."""
        ...


_principal: ContextVar[Principal] = ContextVar("longshore_principal")
_stream: ContextVar[EndableCall | None] = ContextVar("longshore_stream", default=None)


def principal() -> Principal:
    """Return the caller of the RPC at hand."""
    return _principal.get()


def known() -> Principal | None:
    """Return the caller of the RPC at hand. None means that no principal was found out, or asked for."""
    return _principal.get(None)


def enter(caller: Principal, stream: EndableCall | None = None) -> None:
    """Set the caller of the RPC at hand. For the interceptor."""
    _principal.set(caller)
    if stream is not None:
        _stream.set(stream)


@contextmanager
def ended_by(end: Callable[[LongshoreError], None]) -> Iterator[None]:
    """Call `end` when the caller's token is over within the block, instead of cancelling the handler, which must then
    come to its end by itself, with this error. For handlers that must not be cancelled while they write."""
    stream = _stream.get()
    if stream is None:
        yield
        return
    stream.end_by(end)
    try:
        yield
    finally:
        stream.end_by(None)
