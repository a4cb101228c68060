"""This module tells when time will do something to tasks: the janitor of every server must know that."""

from __future__ import annotations

from collections.abc import Iterable

from longshore.server.model.records import record
from longshore.server.model.task import Task


@record
class Agenda:
    """What comes of some tasks with time. `at` is when the first of them is due, in wall-clock seconds, and `ticks`
    when the first deadline is over. `payloads` says that a task has ended which has a payload."""

    at: float | None = None
    ticks: float | None = None
    payloads: bool = False


def agenda_of(tasks: Iterable[Task]) -> Agenda:
    """Return what comes of these tasks with time."""
    first_at: float | None = None
    first_ticks: float | None = None
    payloads = False
    for task in tasks:
        submission, status = task.submission, task.status
        if status.state.terminal:
            # A task without bytes leaves nothing behind: every server hears of it, and none has to look.
            payloads = payloads or submission.payload is not None
            continue
        at = min(status.due_at or submission.expires_at, submission.expires_at)
        if first_at is None or at < first_at:
            first_at = at
        ticks = status.deadline_ticks
        if ticks is not None and (first_ticks is None or ticks < first_ticks):
            first_ticks = ticks
    return Agenda(first_at, first_ticks, payloads)
