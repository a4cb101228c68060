"""`longshored migrate`: the database's schema, brought to this version's before its servers are."""

from __future__ import annotations

import typer

from longshore.server.cli.exits import refusals
from longshore.server.settings import Settings


def register(app: typer.Typer) -> None:
    app.command("migrate")(_migrate)


def _migrate(context: typer.Context) -> None:
    """Bring the database to this version's schema. Servers of the version before go on working on it."""
    settings: Settings = context.obj
    with refusals():
        del settings
