"""Commands for operators: stats, workers, drain, pause, resume, settle."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, TypeAlias

import typer

from longshore.client.cli.command import Commands, command
from longshore.client.cli.commands import complete, ids
from longshore.client.cli.output import render
from longshore.client.cli.session import CommandSession, Output
from longshore.client.errors import ConfigurationError
from longshore.v1 import admin_service_pb2

_PANEL: Final = "Operate"


class Found(StrEnum):
    """The finding of an operator at the destination."""

    REMOVED = "removed"
    LANDED = "landed"
    NEITHER = "neither"


_SETTLEMENTS: Final = {
    Found.REMOVED: admin_service_pb2.SETTLEMENT_REMOVED,
    Found.LANDED: admin_service_pb2.SETTLEMENT_LANDED,
    Found.NEITHER: admin_service_pb2.SETTLEMENT_NEITHER,
}

QueueName: TypeAlias = Annotated[
    str, typer.Argument(metavar="QUEUE", autocompletion=complete.queues, help="Name of the queue.", show_default=False)
]


def register(app: Commands) -> None:
    """Add the commands."""

    @command(app, panel=_PANEL)
    async def stats(session: CommandSession) -> None:
        """Show figures of queues, targets and the spool, and what is wrong.

        PARKED tasks wait until their instance is there or runs. DEBTS are temporary files of lost attempts: the next
        worker that reaches their instance removes them. OLDEST is the age of the queued task that waits longest.
        """
        async with session.client() as client:
            figures = await client.stats()
        if session.output is Output.JSON:
            session.json(figures)
            return
        for part in render.stats(figures):
            session.show(part)

    @command(app, panel=_PANEL)
    async def workers(
        session: CommandSession,
        all_of_them: Annotated[
            bool,
            typer.Option(
                "--all",
                "-a",
                help="Show also sessions that ended in the last hour, and the last session of each target in use.",
            ),
        ] = False,
    ) -> None:
        """List the workers whose lease has not ended."""
        async with session.client() as client:
            found = await client.workers(include_ended=all_of_them)
        if session.output is Output.TEXT:
            if found:
                session.show(render.worker_list(found))
            else:
                session.say("no workers; start one with `longshore-worker`, or the server with --worker")
            return
        for each in found:
            session.result(each, text=str, identity=each.session_id)

    @command(app, panel=_PANEL, changes=True)
    async def drain(
        session: CommandSession,
        worker: Annotated[
            str,
            typer.Argument(
                metavar="WORKER",
                autocompletion=complete.workers,
                help="Session id of the worker, or its name if the name is unique.",
            ),
        ],
    ) -> None:
        """Tell a worker to take no more work, finish what it holds, and leave."""
        async with session.client() as client:
            fleet = await client.workers()
            named = [each.session_id for each in fleet if worker in {each.session_id, each.name}]
            if len(named) > 1:
                raise ConfigurationError(f"{len(named)} workers are called {worker!r}: give the session instead")
            drained = await client.drain_worker(named[0] if named else worker)
        session.result(drained, text=lambda: render.worker_list([drained]), identity=drained.session_id)

    @command(app, panel=_PANEL, changes=True)
    async def pause(
        session: CommandSession,
        queue: QueueName,
        create: Annotated[
            bool, typer.Option("--create", help="Create the queue if it does not exist. Its first tasks then wait.")
        ] = False,
    ) -> None:
        """Start no more tasks of a queue. The server goes on accepting, and finishes the tasks that run.

        The queue that tasks are in without --queue is called `default`.
        """
        async with session.client() as client:
            await client.pause_queue(queue, create=create)
        session.say(f"queue {queue} is paused; `longshore resume {queue}` starts it again")

    @command(app, panel=_PANEL, changes=True)
    async def resume(session: CommandSession, queue: QueueName) -> None:
        """Start tasks of a queue again."""
        async with session.client() as client:
            await client.resume_queue(queue)
        session.say(f"queue {queue} runs")

    @command(app, panel=_PANEL, changes=True)
    async def settle(
        session: CommandSession,
        task: Annotated[
            str,
            typer.Argument(
                metavar="TASK", autocompletion=complete.tasks, help="Id of a settling task.", show_default=False
            ),
        ],
        found: Annotated[
            Found,
            typer.Argument(
                metavar="FOUND",
                help="removed: the temp was there and is gone now. landed: the content is at the destination. "
                "neither: nobody can know.",
                show_default=False,
            ),
        ],
    ) -> None:
        """Settle a delivery whose worker was lost, by what you found at the destination."""
        async with session.client() as client:
            settled = await client.settle(await ids.whole(client, task), settlement=_SETTLEMENTS[found])
        session.result(settled, text=lambda: render.line(settled), identity=settled.id)
