"""This module makes and opens the database that `--database` names, and explains its errors to the operator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from longshore.server.config.settings import DatabaseURL, SettingsError
from longshore.server.data.datadir import DataDir, DataDirError
from longshore.server.data.generation import GenerationFile
from longshore.server.model.clock import Clock, SystemClock
from longshore.server.model.errors import StoreUnavailable
from longshore.server.model.events import Policy
from longshore.server.store.errors import NotDurable
from longshore.server.store.handlers.clock_steps import ClockSteps, this_boot
from longshore.server.store.sql.dialect import Dialect
from longshore.server.store.sqlite.dialect import SQLiteDialect, SQLiteStore
from longshore.server.store.store import SQLStore
from longshore.server.store.transaction.limits import ConcurrencyLimits

EXTRA: Final = "--database postgresql://: the driver is missing: `pip install 'longshore[postgres]'`."

_TURNED_AWAY: Final = re.compile(
    r"authentication failed|no password supplied|no pg_hba.conf entry|not permitted to log in"
    r'|FATAL: +(database|role) ".*" does not exist|permission denied for database|^connection is bad'
)
"""Texts of refused connections that no other start mends. Only the text tells, and only of a database that speaks
English: psycopg has no SQLSTATE of a refused connection."""
_DAMAGED: Final = ("malformed", "not a database")
"""Words of SQLite's errors about a damaged file."""
_EACH_HOST: Final = "All failures were:"


def make_store(url: DatabaseURL, data: DataDir, *, policy: Policy, limits: ConcurrencyLimits) -> tuple[SQLStore, Clock]:
    """Make the store, which is opened later, and its clock: the database's own where several servers share it. Raises
    SettingsError, DataDirError (another server has the SQLite file)."""
    if not url.shared:
        clock = SystemClock()
        path = url.file(data.database)
        data.claim_database(path)
        generation = GenerationFile(data.generation, alone=True)
        steps = ClockSteps(clock, boot=this_boot())
        store: SQLStore = SQLiteStore(
            path=path, clock=clock, policy=policy, limits=limits, generation=generation, steps=steps
        )
        return store, clock
    with _driver():
        from longshore.server.store.postgres.dialect import PostgresStore

        generation = GenerationFile(data.generation, alone=False)
        store = PostgresStore(url=url.text, policy=policy, limits=limits, generation=generation)
    return store, store.clock


def make_dialect(url: DatabaseURL, data: DataDir) -> Dialect:
    """Make the database's dialect for a command that does not serve: without a store and a clock. Raises SettingsError,
    DataDirError."""
    if not url.shared:
        path = url.file(data.database)
        data.claim_database(path)
        return SQLiteDialect(path)
    with _driver():
        from longshore.server.store.postgres.dialect import PostgresDialect

        return PostgresDialect(url.text)


async def open_store(store: SQLStore, url: DatabaseURL) -> None:
    """Open the store. Raises SettingsError, DataDirError, SchemaMismatch, StoreUnavailable (another start may help)."""
    with in_operators_words(url, store.path if isinstance(store, SQLiteStore) else None):
        await store.open()


@contextmanager
def in_operators_words(url: DatabaseURL, file: Path | None = None) -> Iterator[None]:
    """Turn the database's errors into SettingsError, DataDirError and StoreUnavailable, with a message of one line that
    names the option and tells no password. `file` is SQLite's file; None means that the message shows the URL."""
    shown = str(file or url.shown or "longshore.db in the data directory")
    try:
        yield
    except NotDurable as error:
        raise SettingsError(f"--database {shown}: {error}") from error
    except sa.exc.DBAPIError as error:
        why = _one_line(str(error.orig), url.text, shown)
        if not url.shared:
            damaged = any(words in why for words in _DAMAGED)
            remedy = " Keep a copy of it and restore a backup: docs/operations.md." if damaged else ""
            raise DataDirError(f"--database: {shown} cannot be used: {why}.{remedy}") from error
        if _may_help(error, why):
            raise StoreUnavailable(f"--database {shown} cannot be reached now: {why}.") from error
        raise SettingsError(f"--database {shown} cannot be used: {why}.") from error


@contextmanager
def _driver() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise SettingsError(EXTRA) from error


def _may_help(error: sa.exc.DBAPIError, why: str) -> bool:
    """Tell whether another start may go better."""
    from longshore.server.store.postgres.dialect import PostgresDialect

    if error.orig is not None and getattr(error.orig, "sqlstate", None) is not None:
        return PostgresDialect("").is_unavailable(error.orig)
    return isinstance(error, sa.exc.OperationalError) and not all(map(_TURNED_AWAY.search, _of_each_host(why)))


def _of_each_host(why: str) -> list[str]:
    return why.partition(_EACH_HOST)[2].split("- host: ")[1:] or [why]


def _one_line(text: str, url: str, shown: str) -> str:
    # A statement's error goes on with the statement; libpq quotes a URL that it cannot read as it stands.
    said = text.partition("\nLINE ")[0]
    said = said.replace(url, shown) if url else said
    return " ".join(said.split()).rstrip(".")
