"""A registry tells which function runs which kind of task."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from longshore.contract.names import wrong_name

if TYPE_CHECKING:
    from longshore.v1 import worker_service_pb2 as ws
    from longshore.worker.attempts.context import AsyncContext, Context
    from longshore.worker.targets.base import Settlement

Result = Any
"""A handler returns any protobuf message, which is packed into an `Any` unless it is one; or a dict, a list, a
dataclass or a pydantic model, which goes as JSON does (`google.protobuf.Struct`, `ListValue`). None means that there is
no result."""

# Strings: both contexts are defined above this module, and nothing here needs them at run time.
Run = Callable[["Context"], Result] | Callable[["AsyncContext"], Awaitable[Result]]
Settle = (
    Callable[["Context", "ws.SettleOrder"], "Settlement"]
    | Callable[["AsyncContext", "ws.SettleOrder"], Awaitable["Settlement"]]
)
AnyRun = TypeVar("AnyRun", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A kind, the function that runs it, and the one that finds out what became of its granted commit, if any."""

    kind: str
    run: Callable[..., Any]
    settle: Callable[..., Any] | None = None


class Registry:
    """The kinds of a worker. Fill it at import time: `longshore-worker --handlers module:registry` finds it there."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def handler(self, kind: str, *, settle: Settle | None = None) -> Callable[[AnyRun], AnyRun]:
        """Register the decorated function for `kind`: 1 to 63 characters of `[a-z0-9._-]`.

        A plain function gets a `Context` and runs in a thread of its own; an `async def` one gets an `AsyncContext` and
        runs in an event loop that it shares with its like, so it must not block. A kind with `settle` may leave the
        question what became of its commit to another worker. Raises ValueError for a bad or taken name.
        """

        def register(run: AnyRun) -> AnyRun:
            self.add(kind, run, settle=settle)
            return run

        return register

    def add(self, kind: str, run: Callable[..., Any], *, settle: Callable[..., Any] | None = None) -> None:
        """Register a function without a decorator."""
        if wrong := wrong_name(kind):
            raise ValueError(f"{kind!r} is no name of a kind: {wrong}")
        if kind in self._handlers:
            raise ValueError(f"two handlers for the kind {kind!r}: a worker runs one")
        self._handlers[kind] = Handler(kind=kind, run=run, settle=settle)

    def update(self, other: Registry) -> None:
        """Take over every handler of another registry."""
        for handler in other:
            self.add(handler.kind, handler.run, settle=handler.settle)

    def get(self, kind: str) -> Handler | None:
        """Return the handler of a kind. None means that the registry has none."""
        return self._handlers.get(kind)

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers.values())

    def __len__(self) -> int:
        return len(self._handlers)


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether a call makes a coroutine. Objects with an `async def __call__` count too."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - not whether it is callable, but what its call is
    )
