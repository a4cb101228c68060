"""The log of complete uploads has one record for each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from longshore.server import logs
from longshore.server.model.task import Task

_log = structlog.get_logger("longshore.uploads")

_TASKS_NAMED: Final = 10
"""Tasks that the record of an upload names; 1,000 destinations made a line of 28 KB. Each has a record of its own."""


class UploadLog:
    """Writes the records of one turn of the loop together: small uploads become complete many at a time."""

    def __init__(self) -> None:
        self._records: list[logs.FlatRecord] = []

    def complete(self, upload_id: str, principal: str, size: int, tasks: Sequence[Task]) -> None:
        """Log that an upload is complete, in the next turn of the loop."""
        if not self._records:
            asyncio.get_running_loop().call_soon(self._write)
        self._records.append(
            {
                "upload_id": upload_id,
                "principal": principal,
                "size": size,
                "tasks": [task.id for task in tasks[:_TASKS_NAMED]],
                "task_count": len(tasks),
            }
        )

    def _write(self) -> None:
        records, self._records = self._records, []
        logs.bulk.info(_log, "upload_complete", records)
