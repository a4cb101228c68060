"""`longshored migrate` brings the database to this version's schema, before the servers are upgraded."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Final

import typer

from longshore.program import streams
from longshore.server.cli.exits import refusals
from longshore.server.config.database_url import in_operators_words, make_dialect
from longshore.server.config.settings import Settings
from longshore.server.data.datadir import DataDir
from longshore.server.store.migrations.run import migrate, revision_of
from longshore.server.store.tables.schema_version import EMPTY, OURS, check

EXIT_TO_DO: Final = 3
"""`--check` found that there is something to do."""


def register(app: typer.Typer) -> None:
    app.command("migrate")(_migrate)


def _migrate(
    context: typer.Context,
    check_only: Annotated[
        bool, typer.Option("--check", help="Change nothing, and exit with 3 if a migration is needed.")
    ] = False,
) -> None:
    """Migrate the database to this version's schema. Servers of the version before can go on working on it.

    Name the database with the options before the command, as for a server: `longshored --database URL migrate`. The
    command changes nothing if the database has the schema already. Stop the server of a SQLite database first.
    """
    settings: Settings = context.obj
    with refusals():
        before, after = _found(settings) if check_only else _done(settings)
    streams.say(_said(before, after, check_only=check_only))
    if check_only and before < OURS:
        raise typer.Exit(EXIT_TO_DO)


def _found(settings: Settings) -> tuple[int, int]:
    if not settings.database.shared and not _file_is_there(settings):
        return EMPTY, EMPTY
    with _data_dir(settings) as data, in_operators_words(settings.database, _file(settings)):
        dialect = make_dialect(settings.database, data)
        with dialect.engine.connect() as connection:
            found = revision_of(connection)
        check(max(found, OURS - 1))
        return found, found


def _done(settings: Settings) -> tuple[int, int]:
    with _data_dir(settings) as data, in_operators_words(settings.database, _file(settings)):
        return migrate(make_dialect(settings.database, data).engine)


def _data_dir(settings: Settings) -> contextlib.AbstractContextManager[DataDir]:
    """Lock the data directory for a SQLite database, so that no server has it. A PostgreSQL database needs no such
    lock."""
    data = DataDir(settings.data_dir)
    return contextlib.nullcontext(data) if settings.database.shared else data


def _file(settings: Settings) -> Path | None:
    """Return the path of SQLite's file. None means that the database is PostgreSQL's."""
    if settings.database.shared:
        return None
    return settings.database.file(DataDir(settings.data_dir).database)


def _file_is_there(settings: Settings) -> bool:
    file = _file(settings)
    return file is not None and file.exists()


def _said(before: int, after: int, *, check_only: bool) -> str:
    if check_only and before < OURS:
        has = "is empty" if before == EMPTY else f"has schema {before:04}"
        return f"The database {has}: `longshored migrate` would bring it to schema {OURS:04}."
    if before == after:
        newer = f", newer than this version's {OURS:04}, which works on it" if after > OURS else ""
        return f"The database has schema {after:04}{newer}: there is nothing to do."
    had = "was empty" if before == EMPTY else f"had schema {before:04}"
    return f"The database {had} and has schema {after:04} now."
