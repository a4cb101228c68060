"""This module carries out one group of commands in one transaction."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from longshore.server.model.errors import LongshoreError
from longshore.server.store import handlers
from longshore.server.store.commands import Command
from longshore.server.store.handlers.order.ready import update_heads_and_ready
from longshore.server.store.transaction.registry import HANDLERS, Answer, CommandHandler, check_complete
from longshore.server.store.transaction.unit import UnitOfWork

# Each module registers its handlers when it is imported.
for _module in pkgutil.walk_packages(handlers.__path__, f"{handlers.__name__}."):
    importlib.import_module(_module.name)
check_complete()


@dataclass(frozen=True, slots=True)
class Done:
    """A command that was carried out."""

    result: object


@dataclass(frozen=True, slots=True)
class Refused:
    """A command that was refused, and changed nothing."""

    error: LongshoreError


CommandOutcome = Done | Refused


def execute(unit: UnitOfWork, batch: Sequence[Command[Any]]) -> list[CommandOutcome]:
    """Decide and write all of `batch`; the caller commits. The answers are in the order of `batch`.

    All rows that the batch names are asked for first, in one round trip where the database is far; rows that were not
    foreseen are asked for later. Claims come last, so that they find the tasks and the room of the same transaction.
    """
    reads, writes = unit.reads, unit.writes
    found = [HANDLERS[type(command)] for command in batch]
    for handler, command in zip(found, batch, strict=True):
        if handler.prefetch is not None:
            handler.prefetch(reads, command)
    reads.ask()
    answers: dict[int, Answer | LongshoreError] = {}
    for index, handler in enumerate(found):
        if not handler.last:
            answers[index] = _decide(unit, handler, batch[index])
    unit.followers.release()
    writes.flush_stored()
    update_heads_and_ready(unit)
    for index, handler in enumerate(found):
        if handler.last:
            answers[index] = _decide(unit, handler, batch[index])
    unit.followers.write()
    writes.flush()
    outcomes: list[CommandOutcome] = []
    for index in range(len(batch)):
        answer = answers[index]
        outcomes.append(Refused(answer) if isinstance(answer, LongshoreError) else Done(answer()))
    unit.finish()
    return outcomes


def _decide(unit: UnitOfWork, handler: CommandHandler, command: Command[Any]) -> Answer | LongshoreError:
    before = unit.writes.count
    try:
        return handler.run(unit, command)
    except LongshoreError as error:
        if unit.writes.count != before:
            raise AssertionError(f"{type(command).__name__} changed something and then refused") from error
        return error
