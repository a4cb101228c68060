"""The handlers of commands: each is registered where it stands, together with all that others must know of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from longshore.server.store.commands import Command
from longshore.server.store.transaction.reads import Reads
from longshore.server.store.transaction.unit import UnitOfWork

C = TypeVar("C", bound=Command[Any])

Answer = Callable[[], object]
"""Gives the answer of a command; called when the whole batch is decided."""
Run = Callable[[UnitOfWork, C], Answer]
Prefetch = Callable[[Reads, C], None]
R = TypeVar("R", bound=Callable[..., Answer])


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandHandler:
    """The handler of one kind of command.

    `prefetch` names the rows that the command needs, so that a batch asks for all of them at once. None means that the
    command asks by itself. With `keeps_memory` the command changes nothing that is remembered from one transaction to
    the next, except for tasks and their sums. `last` commands are carried out when all others of the batch are decided.
    """

    run: Run[Any]
    prefetch: Prefetch[Any] | None
    keeps_memory: bool
    last: bool = False


_TREE: Final = "longshore."

HANDLERS: Final[dict[type[Command[Any]], CommandHandler]] = {}


def handles(
    command: type[C], *, prefetch: Prefetch[C] | None, keeps_memory: bool, last: bool = False
) -> Callable[[R], R]:
    """Register the function below as the handler of this kind of command."""

    def register(run: R) -> R:
        if command in HANDLERS:
            raise TypeError(f"{command.__name__} has two handlers")
        HANDLERS[command] = CommandHandler(run=run, prefetch=prefetch, keeps_memory=keeps_memory, last=last)
        return run

    return register


def check_complete() -> None:
    """Raise TypeError unless every kind of command has a handler. Called when all modules of handlers are imported."""
    missing = sorted(command.__name__ for command in _kinds(Command) if command not in HANDLERS)
    if missing:
        raise TypeError(f"without a handler: {', '.join(missing)}. Write one with @handles under store/handlers.")


def _kinds(base: type[Command[Any]]) -> Iterator[type[Command[Any]]]:
    """Yield the commands of this tree; tests may have others."""
    for each in base.__subclasses__():
        # A dataclass with slots is made twice, and only the second one is in its module.
        ours = each.__module__.startswith(_TREE)
        if ours and getattr(sys.modules[each.__module__], each.__name__, None) is each:
            yield each
        yield from _kinds(each)
