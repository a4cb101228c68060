"""TokenAdmin makes and revokes tokens on the database directly, beside servers that run on it or without any."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pwd import getpwuid
from typing import TypeVar

import sqlalchemy as sa

from longshore.server.config.database_url import EXTRA
from longshore.server.config.settings import Settings, SettingsError
from longshore.server.data.datadir import DataDirError
from longshore.server.model.access import Role, Secret, Token, new_secret
from longshore.server.model.clock import Clock, SystemClock
from longshore.server.model.errors import StoreUnavailable
from longshore.server.store.errors import NotDurable
from longshore.server.store.handlers import tokens
from longshore.server.store.migrations.run import prepare, revision_of
from longshore.server.store.sql.link import Database, Link
from longshore.server.store.sqlite.dialect import SQLiteDialect
from longshore.server.store.tables.schema_version import EMPTY, check

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Revoked:
    """The tokens that a revocation found: those of `now` ended with it, those of `before` had been revoked already."""

    now: tuple[Token, ...]
    before: tuple[Token, ...]


class TokenAdmin:
    """Makes, lists and revokes the tokens of one database. It takes no lock of the data directory, so that a server may
    run on it.

    Raises SettingsError, DataDirError, SchemaMismatch, StoreUnavailable, each method too.
    """

    def __init__(self, settings: Settings, *, make: bool) -> None:
        """Open the database. With `make` one that is not there is made, for the server that will start on it."""
        self._url = settings.database.text
        self._shown = settings.database.shown or f"longshore.db in {settings.data_dir}"
        self._dialect, self._clock = _database(settings, make=make)
        self._open(make=make)

    def create(
        self, name: str, roles: frozenset[Role], *, expires: float | None, hand_out: Callable[[Secret], None]
    ) -> Token:
        """Make a token, valid for `expires` seconds of the database's time. Its secret is handed out before the token
        is there: a secret that could not be handed out opens nothing."""
        secret = new_secret()

        def work(link: Link) -> Token:
            now = self._clock.now()
            token = Token(
                id=secret.id,
                name=name,
                digest=secret.digest,
                roles=roles,
                created_at=now,
                expires_at=None if expires is None else now + expires,
                revoked_at=None,
            )
            tokens.add(link, token)
            hand_out(secret)
            return token

        return self._write(work)

    def all(self) -> tuple[list[Token], float]:
        """Return every token, the oldest first, and the database's time."""

        def work(link: Link) -> tuple[list[Token], float]:
            return tokens.all_tokens(link), self._clock.now()

        # A transaction that writes asks the database for its time.
        return self._write(work)

    def revoke(self, which: str) -> Revoked:
        """Return the token with this id, else all tokens of this name."""

        def work(link: Link) -> Revoked:
            found = tokens.tokens_of(link, [which]) or [one for one in tokens.all_tokens(link) if one.name == which]
            now = self._clock.now()
            ended = tuple(one for one in found if tokens.revoke(link, one.id, now))
            return Revoked(ended, tuple(one for one in found if one not in ended))

        return self._write(work)

    def _write(self, work: Callable[[Link], R]) -> R:
        with self._linked() as link:
            link.begin()
            link.sync()  # the time is the database's from here on
            try:
                result = work(link)
                link.commit()
            except BaseException:
                link.rollback()
                raise
            return result

    @contextmanager
    def _linked(self) -> Iterator[Link]:
        with self._troubles():
            link = self._dialect.link()
            try:
                yield link
            finally:
                link.close()

    def _open(self, *, make: bool) -> None:
        """Open the database without migrating it, because servers may be at work on it."""
        with self._troubles():
            with self._dialect.engine.connect() as connection:
                found = revision_of(connection)
            if found == EMPTY and make:
                found = prepare(self._dialect)
        if found == EMPTY:
            raise DataDirError(f"--database: {self._shown} has no tables of Longshore yet.")
        check(found)
        self._dialect.schema.revision = found

    @contextmanager
    def _troubles(self) -> Iterator[None]:
        try:
            yield
        except NotDurable as error:
            raise SettingsError(f"--database {self._shown}: {error}") from error
        except Exception as error:
            said = str(getattr(error, "orig", None) or error).strip()
            if self._url:
                said = said.replace(self._url, self._shown)  # libpq quotes what it cannot read as it stands
            if self._dialect.is_unavailable(error):
                raise StoreUnavailable(f"--database: {self._shown} cannot be used now: {said}.") from error
            if isinstance(error, sa.exc.DBAPIError):
                raise DataDirError(f"--database: {self._shown} cannot be used: {said}.") from error
            raise


def _database(settings: Settings, *, make: bool) -> tuple[Database, Clock]:
    if not settings.database.shared:
        path = settings.database.file(settings.data_dir / "longshore.db")
        if not path.exists():
            if not make:
                raise DataDirError(
                    f"{path} is not there. Give the server's own --data-dir, --database or --config, before `token`."
                )
            _make(path, settings.data_dir)
        return SQLiteDialect(path), SystemClock()
    try:
        from longshore.server.store.postgres.clock import DatabaseClock
        from longshore.server.store.postgres.dialect import PostgresDialect
    except ImportError as error:
        raise SettingsError(EXTRA) from error
    clock = DatabaseClock()
    return PostgresDialect(settings.database.text, clock), clock


def _make(path: Path, data_dir: Path) -> None:
    """Make an empty database, which the server's user must be able to write."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = path.parent.stat().st_uid
        if owner != os.geteuid():
            raise DataDirError(
                f"{path.parent} belongs to {_user(owner)}, and the server has not run yet: make it as that user, "
                f"`sudo -u {_user(owner)} longshored ...`, or start the server first."
            )
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise DataDirError(f"{path} cannot be made: {error.strerror}.") from error


def _user(uid: int) -> str:
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
