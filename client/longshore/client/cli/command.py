"""This module makes a command of a coroutine that takes a Session: common options, the event loop, errors, Ctrl-C."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, ParamSpec, TypeAlias, get_args

import typer

from longshore.client.cli.conversion import QuickCommand
from longshore.client.cli.output.exits import ExitCode
from longshore.client.cli.session import CommandSession, Output
from longshore.client.errors import LongshoreError
from longshore.client.values.arguments import text
from longshore.program.streams import OutputLost

_P = ParamSpec("_P")
_CONNECTION: Final = "Connection"

ServerOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="HOST:PORT|unix:PATH[,…]",
        help="Address of the server, or several. Default: $LONGSHORE_SERVER, else 127.0.0.1:7465.",
        rich_help_panel=_CONNECTION,
    ),
]
TLSOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--tls",
        help="Use TLS on loopback addresses too, as on all others. Default: $LONGSHORE_TLS, or if a --tls-… is given.",
        rich_help_panel=_CONNECTION,
        show_default=False,
    ),
]
TLSCAOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        metavar="FILE",
        help="Certificate authority of the server. Default: $LONGSHORE_TLS_CA, else those that this system trusts.",
        rich_help_panel=_CONNECTION,
    ),
]
TLSCertOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert",
        metavar="FILE",
        help="Certificate of this client, for servers that ask for one. Default: $LONGSHORE_TLS_CERT.",
        rich_help_panel=_CONNECTION,
    ),
]
TLSKeyOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--tls-key",
        metavar="FILE",
        help="Private key of --tls-cert. Default: $LONGSHORE_TLS_KEY.",
        rich_help_panel=_CONNECTION,
    ),
]
TLSServerNameOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--tls-server-name",
        metavar="NAME",
        help="Name in the server's certificate. Default: $LONGSHORE_TLS_SERVER_NAME, else the name in the address.",
        rich_help_panel=_CONNECTION,
    ),
]
TokenFileOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="File with the token. Default: $LONGSHORE_TOKEN[_FILE], else `token` in the data directory, which is for "
        "servers on this machine only.",
        rich_help_panel=_CONNECTION,
    ),
]
DataDirOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="The server's data directory, for its token. Default: $LONGSHORE_DATA_DIR, else where longshored puts it.",
        rich_help_panel=_CONNECTION,
    ),
]
OutputOption: TypeAlias = Annotated[
    Output,
    typer.Option(
        "--output",
        "-o",
        help="text for people, json (one object a line) for programs, id for the ids of tasks alone.",
        rich_help_panel="Output",
    ),
]

_COMMON: Final = {
    "server": (ServerOption, None),
    "tls": (TLSOption, False),
    "tls_ca": (TLSCAOption, None),
    "tls_cert": (TLSCertOption, None),
    "tls_key": (TLSKeyOption, None),
    "tls_server_name": (TLSServerNameOption, ""),
    "token_file": (TokenFileOption, None),
    "data_dir": (DataDirOption, None),
    "output": (OutputOption, Output.TEXT),
}

Body: TypeAlias = Callable[..., Coroutine[Any, Any, ExitCode | None]]


class Commands(typer.Typer):
    """The commands of the program. `only` names the one that is called: no other is registered, since typer looks at
    every option of every command. None means all commands."""

    only: str | None = None


class _Brief(QuickCommand):
    """A command whose help leaves out the options about the connection, which every command has: they were two thirds
    of the help. `longshore --help` explains them."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of this command's own options."""
        common: list[Any] = [each for each in self.params if getattr(each, "rich_help_panel", "") == _CONNECTION]
        for each in common:
            each.hidden = True
        try:
            super().format_help(ctx, formatter)
        finally:
            for each in common:
                each.hidden = False


_ELSEWHERE: Final = "`longshore --help` explains `--server`, `--token-file`, `--data-dir` and `--tls…`."


def common_options() -> str:
    """Return the options about the connection, as a list in Markdown."""
    lines = ["Every command takes these, too, after its name:"]
    for name, (annotation, _) in _COMMON.items():
        [option] = get_args(annotation)[1:]
        if option.rich_help_panel == _CONNECTION:
            written = " ".join(filter(None, ("--" + name.replace("_", "-"), option.metavar)))
            lines.append(f"- `{written}`: {option.help}")
    return "\n\n".join([lines[0], "\n".join(lines[1:])])


def command(
    app: Commands, *, name: str | None = None, panel: str | None = None, changes: bool = False
) -> Callable[[Body], Body]:
    """Register `async def body(session, ...)` under its name; its docstring is the help, its result the exit code.

    A parameter whose type is a dataclass stands for a group of options: one for each of its fields.

    `changes` means that its output must not be lost, such as the ids of accepted tasks.
    """

    def register(body: Body) -> Body:
        called = name or body.__name__.replace("_", "-")
        if app.only not in {None, called}:
            return body
        signature = inspect.signature(body, eval_str=True)
        taken = [each for each in signature.parameters.values() if each.name != "session"]
        groups: dict[str, type[Any]] = {each.name: each.annotation for each in taken if _is_group(each.annotation)}
        own = [one for each in taken for one in (_options_of(groups[each.name]) if each.name in groups else [each])]
        common = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for key, (annotation, default) in _COMMON.items()
        ]

        @functools.wraps(body)
        def run(**arguments: Any) -> None:
            session = CommandSession(changes=changes, **{key: arguments.pop(key) for key in _COMMON})

            async def checked() -> ExitCode | None:
                _check_texts(arguments)
                made = {
                    name: group(**{key: arguments.pop(key) for key in _names(group)}) for name, group in groups.items()
                }
                return await body(session, **arguments, **made)

            raise typer.Exit(run_body(session, checked))

        run.__signature__ = signature.replace(parameters=[*own, *common])  # type: ignore[attr-defined]
        app.command(called, cls=_Brief, rich_help_panel=panel, no_args_is_help=False, epilog=_ELSEWHERE)(run)
        return body

    return register


def _is_group(annotation: object) -> bool:
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def _names(group: type[Any]) -> list[str]:
    return [each.name for each in dataclasses.fields(group)]


def _options_of(group: type[Any]) -> list[inspect.Parameter]:
    """Return the fields of a dataclass as parameters, in its place in the list of a command's options."""
    annotations = inspect.get_annotations(group, eval_str=True)
    return [
        inspect.Parameter(
            each.name, inspect.Parameter.KEYWORD_ONLY, annotation=annotations[each.name], default=each.default
        )
        for each in dataclasses.fields(group)
    ]


_TYPED: Final = {"arguments": "--json", "kind": "KIND", "task": "TASK", "tasks": "TASK", "labels": "--label"}
"""This table has the words for parameters that are no option of the same name."""


def _check_texts(given: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for an argument that is not UTF-8: the contract has no way to say one.

    Names of files may be anything; where they are used as names in an instance is where they are looked at.
    """
    for name, value in given.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str) and name not in {"file", "files"}:
                text(_TYPED.get(name) or f"--{name.rstrip('_').replace('_', '-')}", each)


def run_body(session: CommandSession, body: Callable[[], Coroutine[Any, Any, ExitCode | None]]) -> ExitCode:
    """Run the command to its end. Every way to end has its exit code and says why."""
    try:
        code = asyncio.run(body())
    except LongshoreError as error:
        return session.fail(error)
    except KeyboardInterrupt:
        session.err.print()
        for lines in session.interrupted:
            for line in lines():
                session.say(line)
        return ExitCode.INTERRUPTED
    except OutputLost as lost:
        if lost.exit_code != ExitCode.BROKEN_PIPE:
            session.say(f"longshore: {lost}")
        return ExitCode(lost.exit_code)
    if session.lost and not code:
        # Whatever was asked for is done, and its result is on standard error, if anywhere.
        return ExitCode(session.lost[0].exit_code)
    return ExitCode.OK if code is None else code
