"""Errors that only the store's opening raises."""

from __future__ import annotations

from longshore.server.model.errors import LongshoreError


class SchemaMismatch(LongshoreError):
    """The data directory was written by another version of Longshore than this one can read.

    Remedy: start the version that wrote it, or restore a backup that this version wrote. Nothing was changed.
    """

    reason = "SCHEMA_MISMATCH"


class BatchConflict(RuntimeError):
    """A row changed under the writer's hands: somebody else writes to this database. The batch is rolled back."""
