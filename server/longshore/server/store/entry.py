"""A task in the working set of a transaction."""

from __future__ import annotations

from longshore.server.model.task import FilePush, Status, Task
from longshore.server.store.rows import lane_of_work, place_of, taker_of


class Entry:
    """`stored` is the status that the database has; None: the task is not there yet. `changed`: it has another one."""

    __slots__ = ("changed", "lane", "order", "place", "ready", "status", "stored", "task")

    def __init__(self, task: Task, *, stored: bool) -> None:
        work = task.order.work
        self.task = task
        self.order = task.order
        self.status = task.status
        self.lane = lane_of_work(work)
        self.place = place_of(work.destination) if isinstance(work, FilePush) else None
        self.stored = task.status if stored else None
        self.changed = not stored
        self.ready = False
        """Of one that is not stored: its lane has room for it. Where there is no lane that is so of itself."""

    @property
    def taker(self) -> str:
        return taker_of(self.order.kind, alone=self.status.alone)

    def become(self, status: Status) -> None:
        self.status = status
        self.task = Task(self.order, status)
        self.changed = True

    def is_written(self) -> None:
        """The database has what it is."""
        self.stored = self.status
        self.changed = False
