"""The command `longshore`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer

from longshore.client.cli import fleet, push, tasks
from longshore.client.cli.exits import usage_error
from longshore.client.cli.process import prepare

_UsageError: Any = typer.BadParameter.__bases__[0]
"""Of unknown options and missing arguments too; typer does not export it."""

app = typer.Typer(
    name="longshore",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"longshore {version('longshore')}\n")
        raise typer.Exit


@app.callback()
def _main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Deliver files into LXD and Incus containers, and follow them on their way.

    Exit codes: 0 delivered or done, 1 a defect, 2 usage, 3 failed, 4 cancelled, 5 expired, 6 refused by the server,
    7 server unreachable, 8 not let in, 130 Ctrl-C.
    """


push.register(app)
tasks.register(app)
fleet.register(app)


def main() -> None:
    """Entry point of the command."""
    prepare()
    if not _wants_json(sys.argv[1:]):
        app(prog_name="longshore")
    try:
        code = app(prog_name="longshore", standalone_mode=False)
    except _UsageError as error:
        code = usage_error(error.format_message())
    sys.exit(code or 0)


def _wants_json(arguments: Sequence[str]) -> bool:
    """Programs read standard error too: what is wrong with the arguments themselves is said to them in their form."""
    given = " ".join(arguments)
    return any(f" {option}json " in f" {given} " for option in ("-o ", "-o", "--output ", "--output="))
