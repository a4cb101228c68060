"""The database that `--database` names: made, opened, and its troubles at the start said in the operator's words."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from longshore.server.datadir import DataDir, DataDirError
from longshore.server.model.clock import Clock, SystemClock
from longshore.server.model.events import Policy
from longshore.server.settings import SettingsError, is_postgres, sqlite_path, without_password
from longshore.server.store.errors import NotDurable
from longshore.server.store.limits import LaneLimits
from longshore.server.store.sqlite import SQLiteStore
from longshore.server.store.store import SQLStore

_EXTRA: Final = "--database postgresql://: the driver is missing: `pip install 'longshore[postgres]'`."


def make_store(url: str, data: DataDir, *, policy: Policy, limits: LaneLimits) -> tuple[SQLStore, Clock]:
    """The store, still to be opened, and the clock that goes with it: the database's own where several servers share
    it. Raises SettingsError, DataDirError (another server has the SQLite file)."""
    if not is_postgres(url):
        clock = SystemClock()
        path = sqlite_path(url, data.database)
        data.claim_database(path)
        return SQLiteStore(path=path, clock=clock, policy=policy, limits=limits), clock
    try:
        from longshore.server.store.postgres import PostgresStore
    except ImportError as error:
        raise SettingsError(_EXTRA) from error
    store = PostgresStore(url=url, policy=policy, limits=limits)
    return store, store.clock


async def open_store(store: SQLStore, url: str) -> None:
    """Open it. Raises SettingsError, DataDirError, SchemaMismatch."""
    shown = without_password(url) or "longshore.db in the data directory"
    try:
        await store.open()
    except sa.exc.DBAPIError as error:
        raise DataDirError(f"--database: {shown} cannot be used: {str(error.orig).strip()}.") from error
    except NotDurable as error:
        raise SettingsError(f"--database {shown}: {error}") from error
