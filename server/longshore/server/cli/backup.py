"""`longshored backup` and `longshored restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from longshore.server.cli.exits import refusals
from longshore.server.config.settings import Settings
from longshore.server.process.backup import SPOOL, back_up
from longshore.server.process.restore import restore

EXIT_INCOMPLETE: Final = 3
"""The backup is made, and the spool did not have every payload that the database names."""


def register(app: typer.Typer) -> None:
    app.command("backup")(_backup)
    app.command("restore")(_restore)


def _backup(
    context: typer.Context,
    to: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Folder to write the backup to. It must be new or empty.", show_default=False
        ),
    ],
) -> None:
    """Back up the database, payloads, identity and token of a SQLite server. The server may run meanwhile.

    Name the server's data with the options before the command, as for the server: `longshored --data-dir PATH backup
    DIR`. Keep the backup as safe as the data directory, because it contains the token and the content of small files.
    """
    settings: Settings = context.obj
    with refusals():
        manifest = back_up(settings, to.absolute())
    payloads = [file for file in manifest.files if file.path.startswith(f"{SPOOL}/payloads/")]
    size = sum(file.size for file in manifest.files)
    typer.echo(f"Backed up to {to}: the database and {len(payloads)} payloads, {size:,} bytes.")
    if manifest.payloads:
        typer.echo(f"Payloads are in {manifest.payloads}, and not in the backup: they must stay there.", err=True)
    if manifest.missing:
        typer.echo(
            f"{len(manifest.missing)} payloads that the database names are missing in the spool: "
            f"{', '.join(manifest.missing[:3])}{', ...' if len(manifest.missing) > 3 else ''}.",
            err=True,
        )
        raise typer.Exit(EXIT_INCOMPLETE)


def _restore(
    context: typer.Context,
    backup: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `backup` wrote.", show_default=False)],
    replace: Annotated[
        bool, typer.Option("--replace", help="Move an existing database and its payloads aside first.")
    ] = False,
) -> None:
    """Restore a backup. Stop the server first; afterwards it starts with every queue paused.

    Workers may have delivered live tasks of the backup since it was made, and newer files after them. So look at
    `longshore stats` and `longshore list --state live` before `longshore resume QUEUE`.
    """
    settings: Settings = context.obj
    with refusals():
        done = restore(settings, backup.absolute(), replace=replace)
    typer.echo(f"Restored {done.database} as of {done.manifest.made}.")
    if done.aside is not None:
        typer.echo(f"The former data is in {done.aside}.")
    typer.echo(
        f"{done.live_tasks} live tasks would run again, so the server starts with every queue paused: `longshore list "
        "--state live` shows them, `longshore cancel TASK` drops one, `longshore resume QUEUE` lets the rest run."
    )
