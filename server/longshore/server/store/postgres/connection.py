"""Makes connections to PostgreSQL, checks the server's settings, and finds out what became of a lost COMMIT."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, LiteralString, TypeVar

import psycopg
from psycopg.types.string import StrDumperUnknown
from psycopg.waiting import Ready, Wait

from longshore.server.store.errors import CommitUnknown, NotDurable

R = TypeVar("R")

CONNECT_TIMEOUT: Final = 5
"""Seconds for making a connection."""

LOCK_TIMEOUT: Final = 3.0
"""Seconds to wait for a lock before the batch is tried again."""

IDLE_TIMEOUT: Final = 5.0
"""Seconds after which the database ends a transaction whose server does not go on: it holds up all the others."""

STATEMENT_TIMEOUT: Final = 30.0
"""Seconds for one statement. PostgreSQL does not apply it to COMMIT, which must not be given up half-way."""

ANSWER: Final = 35.0
"""Seconds without an answer after which a connection is given up. Longer than STATEMENT_TIMEOUT, so it strikes where
the database cannot say so itself: behind a proxy that lost it, in a COMMIT that waits for a standby which is gone."""

RESOLVE: Final = 5.0
"""Seconds for finding out what became of a COMMIT whose connection was lost."""

_RESOLVE_AGAIN: Final = 0.05

_OVER: Final = ("committed", "aborted")

_PREPARED: Final = 512
"""Statements that a connection keeps prepared; we have about 150."""

_PARAMETERS: Final[dict[str, str | int]] = {
    "connect_timeout": CONNECT_TIMEOUT,
    # A host that vanished is noticed within ten seconds, and not when TCP gives up after fifteen minutes.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    # The driver chooses the one of several hosts that can be written.
    "target_session_attrs": "read-write",
    "application_name": "longshored",
}

_SETTINGS: Final[LiteralString] = """
    SELECT set_config('lock_timeout', %(lock)s, false),
           set_config('idle_in_transaction_session_timeout', %(idle)s, false),
           set_config('statement_timeout', %(statement)s, false),
           set_config('default_transaction_isolation', 'read committed', false),
           set_config('client_encoding', 'UTF8', false)
"""
_FACTS: Final[LiteralString] = """
    SELECT current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes'),
           current_setting('server_encoding'), substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
"""
_CONFIRM: Final[LiteralString] = "UPDATE sequence SET value = value + 1 WHERE name = 'probe'"
_DURABLE: Final = ("on", "remote_apply")
"""Values of `synchronous_commit` with which a commit is on disk, here and on synchronous standbys, when it returns."""


class _TextDumper(StrDumperUnknown):
    """Text with a NUL, which PostgreSQL refuses, is kept with U+FFFD in its place: it may be a hostile caller's reason
    for a cancel, and must not make the batch fail."""

    def dump(self, obj: str) -> Any:
        return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)


class Silence(psycopg.OperationalError):
    """The database did not answer in time. The connection is closed; its transaction may still be under way."""


class PostgresConnection(psycopg.Connection[Any]):
    """A connection that waits for no answer longer than ANSWER, and knows which transaction it is in, in case the
    answer to COMMIT is lost."""

    last_transaction: str = ""
    """The number of the newest transaction."""
    timeline: str = ""
    """The history that the number belongs to: another one after a failover."""

    def wait(self, gen: Generator[Any, Any, R], *arguments: Any, **more: Any) -> R:
        try:
            return super().wait(_answered(gen, self.pgconn.flush, ANSWER), *arguments, **more)
        except Silence:
            self.close()
            raise


def _answered(steps: Generator[Any, Any, R], flush: Callable[[], int], patience: float) -> Generator[Any, Any, R]:
    """Wrap the generator that psycopg waits with, and give up when it takes too long. psycopg asks ten times a second.

    In a pipeline it goes over to reading while a part of what it had to send is still in libpq's buffer (3.3.9; its
    `_fetch` takes for granted that nothing is). There it stayed, and a statement of a MiB was waited for until the end.
    So that is sent on here: `flush` says whether anything is left.
    """
    deadline = time.monotonic() + patience
    try:
        wanted = next(steps)
        while True:
            unsent = wanted == Wait.R and flush()
            ready = yield Wait.RW if unsent else wanted
            if not ready and time.monotonic() > deadline:
                raise Silence(f"the database has not answered for {patience:g} s")
            wanted = steps.send(ready & Ready.R if unsent else ready)
    except StopIteration as end:
        result: R = end.value
        return result


def connect(url: str) -> PostgresConnection:
    """Make a connection that is checked and set up. Raises psycopg.OperationalError, NotDurable."""
    given = psycopg.conninfo.conninfo_to_dict(url)
    parameters = {name: value for name, value in _PARAMETERS.items() if name not in given}
    connection: PostgresConnection = PostgresConnection.connect(url, autocommit=True, **parameters)  # type: ignore[arg-type]
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: PostgresConnection) -> None:
    connection.prepared_max = _PREPARED
    connection.adapters.register_dumper(str, _TextDumper)
    timeouts = {"lock": LOCK_TIMEOUT, "idle": IDLE_TIMEOUT, "statement": STATEMENT_TIMEOUT}
    connection.execute(_SETTINGS, {name: f"{round(1000 * seconds)}ms" for name, seconds in timeouts.items()})
    synchronous, fsync, full_pages, encoding, connection.timeline = connection.execute(_FACTS).fetchone() or ("",) * 5
    if synchronous not in _DURABLE:
        # Any role may set `synchronous_commit` for its own session.
        connection.execute("SET synchronous_commit TO on")
    for name, value in (("fsync", fsync), ("full_page_writes", full_pages)):
        if value != "on":
            raise NotDurable(f"The database runs with {name} = {value}: what it confirms may be lost. Set it to on.")
    if encoding != "UTF8":
        raise NotDurable(f"The database has the encoding {encoding}, which cannot keep every name: make one with UTF8.")


def resolve(url: str, lost: PostgresConnection, proof: tuple[str, Mapping[str, Any]] | None) -> bool:
    """Find out whether the transaction whose COMMIT was not answered is committed. Raises CommitUnknown.

    The database is asked until it knows: the old server process may still be at work, or the database recovering. The
    transaction's number tells when that is over, and nothing more: after a crash the numbers of transactions that left
    no trace are given out again. `proof` tells whether it is committed: a query that answers with a row only then.
    Without one the transaction counts as not committed.
    """
    deadline = time.monotonic() + RESOLVE
    why = "it is still under way"
    while time.monotonic() < deadline:
        try:
            with connect(url) as connection:
                if connection.timeline != lost.timeline:
                    raise CommitUnknown("the database has failed over since")
                fate = _fate(connection, lost.last_transaction)
                if fate in _OVER:
                    done = proof is not None and connection.execute(proof[0].encode(), proof[1]).fetchone() is not None
                    if done:
                        # The transaction is on this disk. COMMIT also waits for the standbys: this statement tells
                        # whether they have it.
                        connection.execute(_CONFIRM)
                    return done
        except psycopg.Error as error:
            why = f"the database does not answer ({error})"
        else:
            if fate is None:
                raise CommitUnknown("the database has forgotten the transaction")
        time.sleep(_RESOLVE_AGAIN)
    raise CommitUnknown(why)


def _fate(connection: PostgresConnection, transaction: str) -> str | None:
    try:
        row = connection.execute("SELECT pg_xact_status(%s::xid8)", (transaction,)).fetchone()
    except psycopg.errors.InvalidParameterValue:
        # The number is in the future: the database crashed before anything of the transaction was on disk.
        return "aborted"
    return None if row is None else row[0]
