"""This module reads ids of tasks as they are typed: whole, by their beginning, or one a line on standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from longshore.client.aio import AsyncClient
from longshore.client.cli.output import render
from longshore.client.errors import ConfigurationError, NotFound
from longshore.client.runtime.together import all_of
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb

STDIN: Final = "-"
_LENGTH: Final = 26
_SHOWN: Final = 5
"""Tasks that are named where a beginning stands for several."""


def typed(texts: Sequence[str] | None) -> list[str]:
    """Return the ids of the arguments, and for `-` those of standard input, one a line.

    No arguments at all, and nothing on standard input, is what `xargs` makes of an empty list: no ids then. Raises
    ConfigurationError where ids were to be given and are not.
    """
    if not texts:
        if _empty_stdin():
            return []
        raise ConfigurationError("no ids: give some, or `-` to read them from standard input, one a line")
    if texts.count(STDIN) > 1:
        raise ConfigurationError("standard input can be read once only")
    found = [each for text in texts for each in (_lines() if text == STDIN else [text])]
    return list(dict.fromkeys(found))


def _lines() -> Iterable[str]:
    return [line.strip() for line in sys.stdin if line.strip()]


def _empty_stdin() -> bool:
    """Return whether standard input is /dev/null, as under `xargs`."""
    try:
        mine, null = os.fstat(sys.stdin.fileno()), Path(os.devnull).stat()
    except (OSError, ValueError, AttributeError):
        return False
    return mine.st_rdev == null.st_rdev and mine.st_mode == null.st_mode


async def whole(client: AsyncClient, text: str) -> str:
    """Return the whole id of the one task whose id begins with this text. Zeros in front may be left out.

    A whole id is returned as it is, without a question. Raises NotFound, and ConfigurationError where several begin so.
    """
    if not text:
        # A script's variable that is not set. Every id begins with nothing, and the only task is soon cancelled.
        raise ConfigurationError("an id is empty: give the id of a task, or its beginning")
    if len(text) >= _LENGTH:
        return text.upper() if len(text) == _LENGTH else text
    wanted = pb.TaskFilter(id_prefix=text)
    found = [task async for task in client.list(filter=wanted, limit=_SHOWN + 1) if begins(task.id, text)]
    if len(found) > 1:
        raise ConfigurationError(
            f"{text!r} stands for several tasks: give more of the id",
            metadata={"candidates": "\n".join(_candidates(found))},
        )
    if not found:
        raise NotFound(f"No task of yours has an id that begins with {text!r}", reason="NOT_FOUND", from_server=True)
    return found[0].id


async def dependencies(client: AsyncClient, spec: task_pb2.TaskSpec) -> None:
    """Put the whole ids into the spec for the tasks that it comes after. Raises as `whole` does."""
    spec.after[:] = await all_of([whole(client, text) for text in spec.after])


def begins(task_id: str, prefix: str) -> bool:
    """Return whether the id begins so. Servers before 0.2 know no beginnings, and answer with every task."""
    whole, wanted = task_id.upper(), prefix.upper()
    if whole.startswith(wanted):
        return True
    zeros = len(whole) - len(whole.lstrip("0"))
    return bool(wanted.strip("0")) and any(whole[count:].startswith(wanted) for count in range(1, zeros + 1))


def _candidates(tasks: Sequence[task_pb2.Task]) -> Iterable[str]:
    for task in tasks[:_SHOWN]:
        yield f"{task.id}  {render.state_name(task)}  {render.where(task)}"
    if len(tasks) > _SHOWN:
        yield "and more"
