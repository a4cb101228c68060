"""The command `longshore`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Final

import typer

from longshore.client.cli.command import Commands, common_options
from longshore.client.cli.conversion import QuickGroup
from longshore.client.cli.output.exits import usage_error
from longshore.client.cli.process import prepare
from longshore.program import environment, streams, usage

MODULES: Final = {
    "push": ("push",),
    "tasks": ("submit", "watch", "get", "list", "attempts", "cancel", "retry"),
    "plans": ("run", "batch"),
    "fleet": ("stats", "workers", "drain", "pause", "resume", "settle"),
}
"""The commands of each module in `commands/`."""
_VERSION: Final = "--version"


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        streams.say(f"longshore {version('longshore')}")
        raise typer.Exit


def _main(
    _version: Annotated[
        bool, typer.Option(_VERSION, callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Deliver files into LXD and Incus containers, and follow them on their way.

    Exit codes: 0 delivered or done, 1 a defect, 2 usage, 3 failed, 4 cancelled, 5 expired, 6 refused by the server,
    7 server unreachable, 8 not let in, 74 standard output could not be written, 130 Ctrl-C. docs/cli.md has them all.
    """


def app_for(called: str | None = None) -> Commands:
    """Make the program. If `called` is a command, it is the only one; if it is `--version`, there is none."""
    app = Commands(
        name="longshore",
        cls=QuickGroup,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(epilog=common_options())(_main)
    found = [name for name, those in MODULES.items() if called in those]
    if found or called == _VERSION:
        app.only = called
    else:
        found = list(MODULES)
    for name in found:
        import_module(f"longshore.client.cli.commands.{name}").register(app)
    return app


def main() -> None:
    """Entry point of the command."""
    prepare()
    for_programs = _wants_json(sys.argv[1:])
    for each in environment.unknown(os.environ) if not for_programs else ():
        streams.say(f"longshore: {each}", err=True)
    app = app_for(sys.argv[1] if len(sys.argv) > 1 else None)
    usage.run("longshore", app, tell=_tell_programs if for_programs else None)


def _tell_programs(said: str, _hint: str) -> None:
    usage_error(said)


def _wants_json(arguments: Sequence[str]) -> bool:
    """Return whether the arguments ask for JSON. Programs read standard error too, so usage errors then are JSON as
    well."""
    given = " ".join(arguments)
    return any(f" {option}json " in f" {given} " for option in ("-o ", "-o", "--output ", "--output="))
