"""Commands about all tasks of one request."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from longshore.client.cli.command import Commands, command
from longshore.client.cli.commands import options
from longshore.client.cli.input import checks
from longshore.client.cli.output import render
from longshore.client.cli.output.exits import ExitCode, code_for_batch
from longshore.client.cli.session import CommandSession
from longshore.client.errors import ConfigurationError

_PANEL = "Tasks"


def register(app: Commands) -> None:
    """Add the commands."""

    @command(app, panel=_PANEL)
    async def batch(
        session: CommandSession,
        request_id: Annotated[
            str,
            typer.Argument(
                metavar="REQUEST_ID",
                parser=options.reads(checks.request_id),
                help="Request id of the tasks; `get` shows it.",
                show_default=False,
            ),
        ],
        creator: Annotated[
            str, typer.Option("--creator", metavar="NAME", help="Principal that made the request, for operators.")
        ] = "",
        cancel: Annotated[bool, typer.Option("--cancel", help="Cancel all of its tasks.")] = False,
        reason: Annotated[str, typer.Option("--reason", help="With --cancel: the reason, for people.")] = "",
    ) -> ExitCode:
        """Show what became of all tasks of one request, with one verdict and the first failures.

        The exit code tells the verdict: 0 while tasks are live or if all have succeeded, 3 if one failed or expired,
        and 4 if none did and one was cancelled. With --cancel it is 0 once the cancel is durable.
        """
        if reason and not cancel:
            raise ConfigurationError("--reason is for --cancel: give both")
        async with session.client() as client:
            if cancel:
                found = await client.cancel_batch(request_id, reason=reason, creator=creator)
            else:
                found = await client.get_batch(request_id, creator=creator)
        session.result(found, text=partial(render.batch, found))
        return ExitCode.OK if cancel else code_for_batch(found)
