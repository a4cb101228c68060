"""A shell offers these names of the server when Tab is pressed. After a failure, or with a slow server, it offers none,
without a message: a message would end up in the line that is being typed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final, TypeAlias

import typer

from longshore.client.aio import AsyncClient
from longshore.client.cli.output import render
from longshore.client.cli.session import CommandSession
from longshore.client.errors import LongshoreError
from longshore.client.values.specs import STATE_NAMES
from longshore.v1 import admin_service_pb2, task_pb2

WITHIN: Final = 2.0
"""Seconds for one completion."""
_TASKS: Final = 200
"""The newest tasks, from which names are taken that nothing lists."""
_IDS: Final = 50

Offer: TypeAlias = "str | tuple[str, str]"
"""A value, or a value and what it is, which zsh and fish show."""


def states(incomplete: str) -> list[str]:
    """States by name, and the words for many."""
    return [name for name in (*STATE_NAMES.values(), "live", "done") if name.startswith(incomplete.lower())]


def queues(context: typer.Context, incomplete: str) -> list[Offer]:
    """Queues with live tasks, paused ones, and those of the newest tasks: figures leave out a queue that is done."""

    async def ask(client: AsyncClient) -> Iterable[Offer]:
        stats, newest = await asyncio.gather(_stats(client), _newest(client))
        return [*(row.queue for row in stats.queues), *(task.queue for task in newest)]

    return _offer(context, incomplete, ask)


def targets(context: typer.Context, incomplete: str) -> list[Offer]:
    """Targets that the figures have, and those of the newest tasks."""

    async def ask(client: AsyncClient) -> Iterable[Offer]:
        stats, newest = await asyncio.gather(_stats(client), _newest(client))
        return [*(row.target for row in stats.targets), *(_target(task) for task in newest)]

    return _offer(context, incomplete, ask)


def kinds(context: typer.Context, incomplete: str) -> list[Offer]:
    """Kinds that workers run or tasks have."""

    async def ask(client: AsyncClient) -> Iterable[Offer]:
        try:
            found = [kind for worker in await client.workers() for kind in worker.kinds]
        except LongshoreError:
            found = []
        return [*found, *(task.kind for task in await _newest(client))]

    return _offer(context, incomplete, ask)


def instances(context: typer.Context, incomplete: str) -> list[Offer]:
    """Instances that tasks were for."""

    async def ask(client: AsyncClient) -> Iterable[Offer]:
        return [_instance(task) for task in await _newest(client)]

    return _offer(context, incomplete, ask)


def destinations(context: typer.Context, incomplete: str) -> list[Offer]:
    """Instances as a destination begins: `web/`, `east:web/`."""

    async def ask(client: AsyncClient) -> Iterable[Offer]:
        pushes = [task.file_push.destination for task in await _newest(client) if task.HasField("file_push")]
        return [f"{render.destination(task_pb2.Destination(target=to.target, instance=to.instance))}/" for to in pushes]

    return _offer(context, incomplete, ask)


def files_and_destinations(context: typer.Context, incomplete: str) -> list[Offer]:
    """Offer the arguments of `push`: files first, and destinations too once a file is given."""
    given = context.params.get("files") or []
    here = [f"{path}/" if path.is_dir() else str(path) for path in sorted(Path().glob(f"{_literally(incomplete)}*"))]
    return [*here, *(destinations(context, incomplete) if given else [])]


def tasks(context: typer.Context, incomplete: str) -> list[Offer]:
    """Ids of the newest tasks, without the zeros in front where they were left out."""
    short = bool(incomplete) and not incomplete.startswith("0")

    async def ask(client: AsyncClient) -> Iterable[Offer]:
        newest = (await _newest(client))[:_IDS]
        return [
            (task.id.lstrip("0") if short else task.id, f"{render.state_name(task)} {render.where(task)}")
            for task in newest
        ]

    return _offer(context, incomplete, ask)


def workers(context: typer.Context, incomplete: str) -> list[Offer]:
    """Workers by name."""

    async def ask(client: AsyncClient) -> Iterable[Offer]:
        return [each.name for each in await client.workers()]

    return _offer(context, incomplete, ask)


def _offer(
    context: typer.Context, incomplete: str, ask: Callable[[AsyncClient], Awaitable[Iterable[Offer]]]
) -> list[Offer]:
    async def within() -> Iterable[Offer]:
        given = context.params
        session = CommandSession(
            server=given.get("server"),
            tls=bool(given.get("tls")),
            tls_ca=given.get("tls_ca"),
            tls_cert=given.get("tls_cert"),
            tls_key=given.get("tls_key"),
            tls_server_name=given.get("tls_server_name") or "",
            token_file=given.get("token_file"),
            data_dir=given.get("data_dir"),
        )
        async with asyncio.timeout(WITHIN), session.client() as client:
            return await ask(client)

    try:
        found = asyncio.run(within())
    except (LongshoreError, OSError, ValueError, RuntimeError):
        return []
    by_value = {(each if isinstance(each, str) else each[0]): each for each in found}
    return [each for value, each in sorted(by_value.items()) if value and value.startswith(incomplete)]


async def _stats(client: AsyncClient) -> admin_service_pb2.GetStatsResponse:
    """Figures; empty ones for a caller that may not see them."""
    try:
        return await client.stats()
    except LongshoreError:
        return admin_service_pb2.GetStatsResponse()


async def _newest(client: AsyncClient) -> list[task_pb2.Task]:
    return [task async for task in client.list(limit=_TASKS, page_size=_TASKS)]


def _target(task: task_pb2.Task) -> str:
    return task.file_push.destination.target if task.HasField("file_push") else task.job.target


def _instance(task: task_pb2.Task) -> str:
    return task.file_push.destination.instance if task.HasField("file_push") else task.job.instance


def _literally(text: str) -> str:
    """Return a pattern that matches this text alone: each sign of a glob stands in brackets."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in text)
