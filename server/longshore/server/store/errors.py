"""Errors that only the store's opening raises."""

from __future__ import annotations


class SchemaMismatch(Exception):
    """The data directory was written by another version of Longshore than this one can read.

    Remedy: start the version that wrote it, or restore a backup that this version wrote. Nothing was changed.
    """


class BatchConflict(RuntimeError):
    """A row changed under the writer's hands: somebody else writes to this database. The batch is rolled back."""


class NotDurable(Exception):
    """The database is set up so that it may lose or garble what it has confirmed.

    Remedy: the message names the setting.
    """


class CommitUnknown(Exception):
    """The connection was lost in COMMIT, and what became of the transaction cannot be found out.

    Remedy: none is needed but to ask again with the same ids; commands are idempotent.
    """


class DatabaseLost(Exception):
    """The file of a SQLite database is gone, another one or damaged: what would be committed is not kept.

    Remedy: the `detail` names the file and says what to do; the message is for everybody.
    """

    def __init__(self, message: str, detail: str) -> None:
        super().__init__(message)
        self.detail = detail
