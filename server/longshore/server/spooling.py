"""The spool that `--spool` names: made, opened, and its troubles at the start said in the operator's words."""

from __future__ import annotations

import secrets

from longshore.server.datadir import DataDir, DataDirError
from longshore.server.model.errors import LongshoreError
from longshore.server.settings import Settings, is_postgres, spool_path
from longshore.server.spool.directory import DirectorySpool
from longshore.server.spool.errors import SpoolRefused
from longshore.server.spool.protocol import Spool
from longshore.server.store.commands import IdentifyDatabase
from longshore.server.store.protocol import Store


async def make_spool(settings: Settings, data: DataDir, store: Store) -> Spool:
    """The spool, still to be opened, of an open store. Raises SettingsError, DataDirError (another server has it)."""
    number = await store.run(IdentifyDatabase(candidate=secrets.randbits(62)))
    shared = is_postgres(settings.database)
    folder = spool_path(settings.spool, data.spool)
    if not shared:
        data.claim_spool(folder)
    return DirectorySpool(root=folder, reserve=settings.limits.disk_reserve, shared=shared, database=f"{number:016x}")


async def open_spool(spool: Spool, url: str) -> None:
    """Open it. Raises DataDirError."""
    shown = url or "spool/ in the data directory"
    try:
        await spool.open()
    except SpoolRefused as error:
        raise DataDirError(f"--spool: {error}") from error
    except LongshoreError as error:
        raise DataDirError(f"--spool: {shown} cannot be used: {error.message}") from error
