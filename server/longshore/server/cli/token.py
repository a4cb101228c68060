"""`longshored token` makes, lists and revokes the tokens of callers other than the data directory's owner."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeAlias

import typer

from longshore.program import streams
from longshore.program.visible import visible_json
from longshore.server.cli.exits import refusals
from longshore.server.cli.token_admin import TokenAdmin
from longshore.server.config.settings import Settings, SettingsError
from longshore.server.config.values import parse_duration
from longshore.server.model.access import Role, Secret, Token, check_name, roles_text

Output: TypeAlias = Literal["text", "json"]
OutputOption: TypeAlias = Annotated[
    Output, typer.Option(help="Format of the output: text for people, json for programs.")
]

_HEAD: Final = ("ID", "NAME", "ROLES", "CREATED", "EXPIRES", "STATE")

_tokens = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Create, list and revoke tokens. Servers may be running or stopped.",
)


def register(app: typer.Typer) -> None:
    app.add_typer(_tokens, name="token")


@_tokens.command("create")
def _create(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="Name of the caller, which becomes the creator of its tasks. Several tokens may have the same name."
        ),
    ],
    role: Annotated[list[Role], typer.Option(help="Role of the token. Repeatable.", show_default=False)],
    expires: Annotated[
        str, typer.Option(help="Time until the token expires, such as 90d. (default: never)", show_default=False)
    ] = "",
    token_file: Annotated[
        Path | None,
        typer.Option(help="Write the token to this new file (mode 0600) and do not print it.", show_default=False),
    ] = None,
    output: OutputOption = "text",
) -> None:
    """Create a token. The command shows it once; the database keeps only its SHA-256."""
    settings: Settings = context.obj
    said: list[Secret] = []
    with refusals():
        try:
            check_name(name)
        except ValueError as error:
            raise SettingsError(f"NAME: {error}") from None
        seconds = parse_duration("--expires", expires, least=1.0) if expires else None
        admin = TokenAdmin(settings, make=True)
        if token_file is None:
            token = admin.create(name, frozenset(role), expires=seconds, hand_out=said.append)
        else:
            with _Written(token_file) as file:
                token = admin.create(name, frozenset(role), expires=seconds, hand_out=file.write)
    if output == "json":
        where = {"token": str(said[0])} if said else {"token_file": str(token_file)}
        _show(token, visible_json(_form(token, token.created_at) | where))
        return
    streams.say(
        f"Token {token.id} of {token.name}: {roles_text(token.roles)}; expires {_time(token.expires_at) or 'never'}.",
        err=True,
    )
    if said:
        _show(token, str(said[0]))
    else:
        streams.say(f"Written to {token_file}.", err=True)


def _show(token: Token, secret: str) -> None:
    """Print the token, which is shown once."""
    try:
        streams.say(secret)
    except streams.OutputLost:
        streams.say(f"The token could not be printed: end it with `longshored token revoke {token.id}`.", err=True)
        raise


@_tokens.command("list")
def _list(context: typer.Context, output: OutputOption = "text") -> None:
    """List all tokens, including revoked and expired ones, without their secrets."""
    with refusals():
        found, now = TokenAdmin(context.obj, make=False).all()
    if output == "json":
        sys.stdout.write(visible_json([_form(token, now) for token in found], indent=2) + "\n")
        return
    rows = [
        (
            token.id,
            token.name,
            roles_text(token.roles),
            _time(token.created_at),
            _time(token.expires_at) or "never",
            token.refused(now) or "valid",
        )
        for token in found
    ]
    for line in _table([_HEAD, *rows]):
        streams.say(line)


@_tokens.command("revoke")
def _revoke(
    context: typer.Context,
    which: Annotated[
        str, typer.Argument(metavar="ID|NAME", help="Id of one token, or a name, which means all of its tokens.")
    ],
    output: OutputOption = "text",
) -> None:
    """Revoke a token. Servers refuse it within seconds and end the streams that it opened."""
    with refusals():
        done = TokenAdmin(context.obj, make=False).revoke(which)
        if not done.now and not done.before:
            raise SettingsError(
                f"There is no token with the id or name {which[:200]!r}; `longshored token list` shows them."
            )
    if output == "json":
        streams.say(visible_json({"revoked": [token.id for token in done.now]}))
        return
    for token in done.now:
        streams.say(f"Token {token.id} of {token.name} is revoked.")
    if not done.now:
        streams.say("It was revoked already.")


class _Written:
    """Make a new file that only this user may read. It stays if the block ends well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_rest: object) -> None:
        if kind is not None and self._made:
            self._path.unlink(missing_ok=True)

    def write(self, secret: Secret) -> None:
        """Write the secret, durable when this returns. Raises SettingsError."""
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise SettingsError(f"--token-file {self._path}: is there already; give a new name.") from None
        except OSError as error:
            raise SettingsError(f"--token-file {self._path}: cannot be made: {error.strerror}.") from error
        self._made = True
        try:
            os.write(handle, f"{secret}\n".encode("ascii"))
            os.fsync(handle)
        except OSError as error:
            raise SettingsError(f"--token-file {self._path}: cannot be written: {error.strerror}.") from error
        finally:
            os.close(handle)


def _form(token: Token, now: float) -> dict[str, object]:
    return {
        "id": token.id,
        "name": token.name,
        "roles": [role for role in Role if role in token.roles],
        "created": _time(token.created_at),
        "expires": _time(token.expires_at) or None,
        "revoked": _time(token.revoked_at) or None,
        "state": token.refused(now) or "valid",
    }


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError):
        return "out of range"  # by hand, or by an older version: the others are listed all the same


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
