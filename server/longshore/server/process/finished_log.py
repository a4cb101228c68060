"""The log of tasks: one line at the end of each, one for each step at level debug; and the count of what finished."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

import structlog

from longshore.server import logs
from longshore.server.model.values import State
from longshore.server.store.protocol import Changes, Store, TaskChange, nothing

_log = structlog.get_logger("longshore.tasks")

_NAMES: Final = ("", *(state.name for state in State))
"""Maps numbers to names: `name` looks it up anew each time."""
_LEVELS: Final = {State.FAILED: logging.WARNING, State.EXPIRED: logging.WARNING}


class FinishedLog:
    """Listens to commits. Nothing is logged that is not durable."""

    def __init__(self, *, store: Store, finished: Counter[State]) -> None:
        self._finished = finished
        store.subscribe(self._on_commit, wants=nothing)

    def _on_commit(self, changes: Changes) -> None:
        if not changes.own:
            return  # the server that made the commit says so
        ended: dict[int, list[TaskChange]] = {}
        for change in changes.tasks:
            state = change.task.status.state
            if state.terminal:
                self._finished[state] += 1
                ended.setdefault(_LEVELS.get(state, logging.INFO), []).append(change)
        if logs.bulk.enabled(logging.DEBUG):
            steps = (change for change in changes.tasks if not change.task.status.state.terminal)
            logs.bulk.log(logging.DEBUG, _log, "task", map(_record, steps))
        for level, some in ended.items():
            logs.bulk.log(level, _log, "task", map(_record, some))


def _record(change: TaskChange) -> logs.FlatRecord:
    submission, status = change.task.submission, change.task.status
    fields: logs.FlatRecord = {
        "task_id": submission.id,
        "state": _NAMES[status.state],
        "revision": status.revision,
    }
    if status.attempt:
        fields["attempt"] = status.attempt
        fields["worker"] = status.worker
    if status.revision == 1 or status.state.terminal:
        fields["kind"] = submission.kind
        fields["creator"] = submission.creator
        fields["request_id"] = submission.request_id
        work = submission.work
        if (destination := work.destination) is not None:
            fields |= {"target": destination.target, "instance": destination.instance, "path": destination.path}
        elif work.target or work.instance:
            fields |= {"target": work.target, "instance": work.instance}
    if status.state.terminal:
        if submission.payload is not None:
            fields["size"] = submission.payload.size
        if status.started_at is not None and status.finished_at is not None:
            fields["seconds"] = round(max(status.finished_at - status.started_at, 0.0), 3)
    if status.error is not None and status.state is not State.RUNNING:
        fields |= {"reason": status.error.reason, "error": status.error.message}
    return fields
