"""Tokens for tests, made as `longshored token create` makes them: in the database, beside the running server."""

from __future__ import annotations

from pathlib import Path

from longshore.server.cli.token_admin import TokenAdmin
from longshore.server.config.settings import DatabaseURL, Settings
from longshore.server.model.access import Role, Secret
from tests.support.servers.processes import ServerProcess


def token_admin(data: Path, *, database: str = "") -> TokenAdmin:
    """The tokens of a server with this data directory."""
    return TokenAdmin(Settings(data_dir=data, database=DatabaseURL(database)), make=True)


def make_token(data: Path, name: str, *roles: Role, expires: float | None = None, database: str = "") -> str:
    """A new one, as its holder shows it."""
    said: list[Secret] = []
    token_admin(data, database=database).create(name, frozenset(roles), expires=expires, hand_out=said.append)
    return str(said[0])


def token_admin_of(server: ServerProcess) -> TokenAdmin:
    """The tokens of this server, which may run or be started later."""
    return token_admin(server.data, database=server.database)


def token_of(server: ServerProcess, name: str, *roles: Role, expires: float | None = None) -> str:
    """A new one for this server."""
    return make_token(server.data, name, *roles, expires=expires, database=server.database)


def metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)
