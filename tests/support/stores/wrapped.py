"""A real store or spool, but for what a test changes."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from longshore.server.model.errors import StoreUnavailable
from longshore.server.store.commands import Command

R = TypeVar("R")


class Wrapped:
    """The real thing, but for what a subclass changes."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class FailsOnce(Wrapped):
    """A store that fails the first command of a kind, before or after it is committed."""

    def __init__(self, inner: Any, kind: type[Command[Any]], *, committed: bool) -> None:
        super().__init__(inner)
        self.kind = kind
        self.committed = committed
        self.failed = False

    def begin(self, command: Command[R]) -> asyncio.Future[R]:
        return asyncio.ensure_future(self.run(command))

    async def run(self, command: Command[R]) -> R:
        fails = isinstance(command, self.kind) and not self.failed
        self.failed |= fails
        if not fails or self.committed:
            result: R = await self.inner.run(command)
        if fails:
            raise StoreUnavailable("pulled out by the test")
        return result
