"""This module caches tasks as the last commit left them, so that claim, grant and end of a new task cost no read.

The cache is used only for a database that no other program writes to. If one does so all the same, the write that is
conditioned on the revision fails, the cache is emptied, and the batch is tried again on what is stored.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from longshore.server.model.task import Submission
from longshore.server.store.transaction.loaded_tasks import LoadedTask

CAPACITY: Final = 8192
"""The most tasks that are kept; each takes about 3 KB."""

LARGEST: Final = 4096
"""Bytes of a job's arguments, and characters of labels; tasks with more are read each time."""


class TaskCache:
    """The live tasks that were written last. The cache belongs to the writer's thread."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[int, LoadedTask] = OrderedDict()

    def get(self, seq: int, default: Any, /) -> Any:
        return self._loaded.get(seq, default)

    def pop(self, seq: int, default: Any, /) -> Any:
        return self._loaded.pop(seq, default)

    def update(self, loaded_tasks: Mapping[int, LoadedTask | None], /) -> None:
        """Keep these tasks: they are stored now, and no transaction uses them any more."""
        kept = self._loaded
        for seq, loaded in loaded_tasks.items():
            if loaded is None or loaded.status.state.terminal:
                kept.pop(seq, None)
            elif seq in kept:
                kept.move_to_end(seq)
            elif _small(loaded.submission):
                kept[seq] = loaded
        while len(kept) > CAPACITY:
            kept.popitem(last=False)

    def clear(self) -> None:
        self._loaded.clear()


def _small(submission: Submission) -> bool:
    arguments, labels = submission.work.arguments, submission.terms.labels
    if arguments is not None and len(arguments.value) > LARGEST:
        return False
    return not labels or sum(map(len, labels.values())) <= LARGEST
