"""The command `longshore`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from longshore.client.cli.command import common_options
from longshore.client.cli.commands import fleet, push, tasks
from longshore.client.cli.output.exits import usage_error
from longshore.client.cli.process import prepare
from longshore.program import environment, streams, usage

app = typer.Typer(
    name="longshore",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        streams.say(f"longshore {version('longshore')}")
        raise typer.Exit


@app.callback(epilog=common_options())
def _main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Deliver files into LXD and Incus containers, and follow them on their way.

    Exit codes: 0 delivered or done, 1 a defect, 2 usage, 3 failed, 4 cancelled, 5 expired, 6 refused by the server,
    7 server unreachable, 8 not let in, 74 standard output could not be written, 130 Ctrl-C. docs/cli.md has them all.
    """


push.register(app)
tasks.register(app)
fleet.register(app)


def main() -> None:
    """Entry point of the command."""
    prepare()
    for_programs = _wants_json(sys.argv[1:])
    for each in environment.unknown(os.environ) if not for_programs else ():
        streams.say(f"longshore: {each}", err=True)
    usage.run("longshore", app, tell=_tell_programs if for_programs else None)


def _tell_programs(said: str, _hint: str) -> None:
    usage_error(said)


def _wants_json(arguments: Sequence[str]) -> bool:
    """Return whether the arguments ask for JSON. Programs read standard error too, so usage errors then are JSON as
    well."""
    given = " ".join(arguments)
    return any(f" {option}json " in f" {given} " for option in ("-o ", "-o", "--output ", "--output="))
