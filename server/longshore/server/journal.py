"""The log of state changes: one line each, and the count of what finished."""

from __future__ import annotations

from collections import Counter

import structlog

from longshore.server import logs
from longshore.server.model.task import FilePush
from longshore.server.model.values import State
from longshore.server.store.protocol import Changes, Store, TaskChange

_log = structlog.get_logger("longshore.tasks")


class Journal:
    """Listens to commits. Nothing is logged that is not durable."""

    def __init__(self, *, store: Store, finished: Counter[State]) -> None:
        self._finished = finished
        store.subscribe(self._on_commit)

    def _on_commit(self, changes: Changes) -> None:
        if not changes.own:
            return  # the server that made the commit says so
        for change in changes.tasks:
            if change.task.status.state.terminal:
                self._finished[change.task.status.state] += 1
        if changes.tasks:
            logs.bulk.info(_log, "task", map(_record, changes.tasks))


def _record(change: TaskChange) -> dict[str, str | int]:
    order, status = change.task.order, change.task.status
    fields: dict[str, str | int] = {"task_id": order.id, "state": status.state.name, "revision": status.revision}
    if status.attempt:
        fields |= {"attempt": status.attempt, "worker": status.worker}
    if status.revision == 1:
        fields |= {"kind": order.kind, "creator": order.creator, "request_id": order.request_id}
        if isinstance(order.work, FilePush):
            place = order.work.destination
            fields |= {"target": place.target, "instance": place.instance, "path": place.path}
    if status.error is not None and status.state is not State.RUNNING:
        fields |= {"reason": status.error.reason, "error": status.error.message}
    return fields
