"""Tasks as the last commit left them, so that claiming, granting and ending what was just submitted costs no read.

Only for a database that nobody else writes to. Should somebody all the same, the write conditioned on the revision
fails, the cache is emptied, and the batch is tried again on what is stored.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from longshore.server.model.task import Job, Task

CAPACITY: Final = 8192
"""Tasks; about 3 KB each."""

LARGEST: Final = 4096
"""Bytes of a job's arguments; tasks with more are read each time."""


class TaskCache:
    """The live tasks that were written last. Belongs to the writer's thread."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[int, Task] = OrderedDict()

    def get(self, seq: int) -> Task | None:
        return self._tasks.get(seq)

    def committed(self, tasks: Iterable[Task]) -> None:
        """These are stored now."""
        kept = self._tasks
        for task in tasks:
            seq = task.order.seq
            kept.pop(seq, None)
            if not task.status.state.terminal and _small(task):
                kept[seq] = task
        while len(kept) > CAPACITY:
            kept.popitem(last=False)

    def clear(self) -> None:
        self._tasks.clear()


def _small(task: Task) -> bool:
    work = task.order.work
    return not isinstance(work, Job) or work.arguments is None or len(work.arguments.value) <= LARGEST
