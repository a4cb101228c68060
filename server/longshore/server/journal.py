"""The log of state changes: one line each, and the count of what finished."""

from __future__ import annotations

from collections import Counter
from typing import Final

import structlog

from longshore.server import logs
from longshore.server.model.task import FilePush
from longshore.server.model.values import State
from longshore.server.store.protocol import Changes, Store, TaskChange

_log = structlog.get_logger("longshore.tasks")

_NAMES: Final = ("", *(state.name for state in State))
"""By number: `name` looks it up anew each time."""


class Journal:
    """Listens to commits. Nothing is logged that is not durable."""

    def __init__(self, *, store: Store, finished: Counter[State]) -> None:
        self._finished = finished
        store.subscribe(self._on_commit)

    def _on_commit(self, changes: Changes) -> None:
        if not changes.own:
            return  # the server that made the commit says so
        for change in changes.tasks:
            state = change.task.status.state
            if state.terminal:
                self._finished[state] += 1
        if changes.tasks:
            logs.bulk.info(_log, "task", map(_record, changes.tasks))


def _record(change: TaskChange) -> dict[str, str | int]:
    order, status = change.task.order, change.task.status
    fields: dict[str, str | int] = {
        "task_id": order.id,
        "state": _NAMES[status.state],
        "revision": status.revision,
    }
    if status.attempt:
        fields["attempt"] = status.attempt
        fields["worker"] = status.worker
    if status.revision == 1:
        fields["kind"] = order.kind
        fields["creator"] = order.creator
        fields["request_id"] = order.request_id
        if isinstance(order.work, FilePush):
            place = order.work.destination
            fields |= {"target": place.target, "instance": place.instance, "path": place.path}
    if status.error is not None and status.state is not State.RUNNING:
        fields |= {"reason": status.error.reason, "error": status.error.message}
    return fields
