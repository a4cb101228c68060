"""Commands about plans, and about all tasks of one request."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, Final

import typer

from longshore.client.aio import PATIENCE, AsyncClient
from longshore.client.cli.command import Commands, command
from longshore.client.cli.commands import ids, options
from longshore.client.cli.commands.push import after_acceptance, check_timeout, code_after
from longshore.client.cli.input import checks, planfile
from longshore.client.cli.output import render
from longshore.client.cli.output.display import Display
from longshore.client.cli.output.exits import ExitCode, code_for_batch
from longshore.client.cli.session import CommandSession
from longshore.client.cli.waiting import told_why
from longshore.client.errors import ConfigurationError, SourceError
from longshore.client.values.plans import PlanStep
from longshore.client.values.specs import with_new_mode
from longshore.contract.limits import LARGEST_CONTENT
from longshore.contract.request_ids import new_request_id

_PANEL: Final = "Tasks"
_MOST_INLINE: Final = 2 << 20
"""Bytes of small files that go along with a plan; a message has 4 MiB at most. Further ones are uploaded."""


def register(app: Commands) -> None:
    """Add the commands."""

    @command(app, panel="Deliver", changes=True)
    async def run(
        session: CommandSession,
        plan: Annotated[
            Path,
            typer.Argument(metavar="PLAN", help="File of the plan; docs/plans.md says how.", show_default=False),
        ],
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Check everything at the server, and upload and make nothing.")
        ] = False,
        *,
        request_id: options.RequestIdOption = "",
        wait: options.WaitOption = False,
        within: options.TimeoutOption = None,
        patience: options.PatienceOption = PATIENCE,
    ) -> ExitCode:
        """Submit a plan: pushes and jobs that are accepted together or not at all, and may come after each other.

        Files of more than 64 KiB are uploaded first. If a step does not succeed, those that come after it are
        cancelled, and the others go on. `longshore batch REQUEST_ID` gives one verdict on all of them.

        longshore run release.toml --wait
        """
        steps = planfile.read(plan)
        check_timeout(within, wait=wait)
        if dry_run and wait:
            raise ConfigurationError("--dry-run makes no tasks to --wait for")
        request = request_id or new_request_id()
        display = Display(session.err, quiet=session.output.quiet)
        async with session.client(patience=patience, on_wait=display.waiting) as client:
            made = await _steps(client, steps, request, dry_run=dry_run, patience=patience)
            tasks = await client.submit_plan(made, request_id=request, dry_run=dry_run, patience=patience)
            if dry_run:
                session.say("1 step would be accepted" if len(made) == 1 else f"{len(made)} steps would be accepted")
                return ExitCode.OK
            session.say(f"request id {request}")
            with display:
                async with told_why(client, display) as waits:
                    after = await after_acceptance(session, client, waits, list(tasks), wait=wait, within=within)
        return code_after(session, after, wait=wait, within=within)

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


async def _steps(
    client: AsyncClient, steps: list[planfile.FileStep], request_id: str, *, dry_run: bool, patience: float
) -> list[PlanStep]:
    """Make the steps with their bytes. Larger files are uploaded, under ids that follow from the plan's, so that the
    same command again goes on where this one was cut off."""
    made = []
    inline = 0
    for number, step in enumerate(steps):
        await ids.dependencies(client, step.spec)
        payload_id, content = "", None
        if step.file is not None:
            try:
                found = step.file.stat()
                if not S_ISREG(found.st_mode):
                    raise SourceError(f"{step.file} is no regular file")
                small = found.st_size <= min(LARGEST_CONTENT, _MOST_INLINE - inline)
                content = step.file.read_bytes() if small else None
            except OSError as error:
                raise SourceError(f"{step.file}: {error.strerror}") from error
            if step.spec.HasField("file_push"):
                step.spec.CopyFrom(with_new_mode(step.spec, found.st_mode & 0o777))
            if content is not None:
                inline += len(content)
            elif dry_run:
                content = b""
            else:
                upload_id = f"{request_id[:100]}.{number}"
                payload_id = (await client.upload_payload(step.file, request_id=upload_id, patience=patience)).id
        made.append(PlanStep(spec=step.spec, after=step.after, payload_id=payload_id, content=content, name=step.name))
    return made
