"""Answers that fit: lists end before they are too large to be received.

A caller takes messages of 4 MiB (gRPC's own limit, and our clients'). An answer beyond that ends RESOURCE_EXHAUSTED in
the caller's core, without ErrorInfo, although the tasks were made; and every retry ends in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final, TypeVar

from google.protobuf.message import Message

from longshore.server.edge.messages import translate
from longshore.server.engine.wait_reasons import WaitReasons
from longshore.server.model.task import Attempt, Status, Task
from longshore.server.model.values import State
from longshore.server.model.waiting import Waiting
from longshore.server.store.protocol import Store
from longshore.v1 import task_pb2

M = TypeVar("M", bound=Message)

MOST_BYTES: Final = 2 << 20
"""The most bytes of the entries of one answer. A task has at most about 300 KiB, a worker with 1,000 targets and 1,000
kinds 130."""
_AROUND: Final = 8
"""Bytes that a list takes for an entry beside the entry: its tag and its length."""
_LOOKED_UP_AT_ONCE: Final = 50
"""Tasks whose attempts are read together: five attempts may have 80 KiB of errors, so these have 4 MiB at most."""


class AnswerRoom:
    """Counts the bytes that are left of an answer for entries of lists."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._left = most

    def fits(self, entry: Message) -> bool:
        """Take the place of the entry, and answer whether it fits. Once one did not, none does."""
        return self.takes(entry.ByteSize())

    def takes(self, size: int) -> bool:
        """Take the place of an entry of so many bytes, and answer whether it fits."""
        self._left -= size + _AROUND
        return self._left >= 0


def fitting(entries: Iterable[M], room: AnswerRoom, *, at_least: int = 0) -> list[M]:
    """Take the first entries, as many as there is room for, and in any case `at_least` of them."""
    taken: list[M] = []
    for entry in entries:
        if not room.fits(entry) and len(taken) >= at_least:
            break
        taken.append(entry)
    return taken


async def shown(
    store: Store, wait_reasons: WaitReasons, tasks: Sequence[Task], *, at_least: int = 0, recent: bool = False
) -> list[task_pb2.Task]:
    """Translate the first tasks, as many as an answer holds, with what has to be looked up for them. `recent` is that
    of `WaitReasons.of`.

    New ones that run at once, the usual case, cost no read. Raises StoreUnavailable.
    """
    room = AnswerRoom()
    waiting = await wait_reasons.of(tasks, recent=recent)
    taken: list[task_pb2.Task] = []
    left = iter(tasks)
    while group := list(islice(left, _LOOKED_UP_AT_ONCE)):
        some = fitting(await _translated(store, group, waiting), room, at_least=at_least - len(taken))
        taken += some
        if len(some) < len(group):
            break
    return taken


async def _translated(store: Store, tasks: Sequence[Task], waiting: Mapping[str, Waiting]) -> list[task_pb2.Task]:
    attempts: dict[str, Sequence[Attempt]] = {task.id: (_first(task.status),) for task in tasks if _runs_first(task)}
    started = [task.id for task in tasks if task.status.attempt and task.id not in attempts]
    if started:
        attempts.update(await store.attempts_of(started, last=translate.ATTEMPTS_SHOWN))
    first = await blocked_by(store, tasks)
    return translate.tasks(tasks, attempts=attempts, blocked_by=first, waiting=waiting)


async def blocked_by(store: Store, tasks: Sequence[Task]) -> Mapping[str, str]:
    """Map the ids of those of `tasks` that are BLOCKED to the ids of the tasks before them: the first dependency that
    has not ended, else the first task of the destination. Raises StoreUnavailable."""
    blocked = [task for task in tasks if task.status.state is State.BLOCKED]
    followers = [task.id for task in blocked if task.status.unmet]
    found = dict(await store.unmet(followers)) if followers else {}
    keys = {task.id: key for task in blocked if task.id not in found and (key := task.submission.work.destination_key)}
    first = await store.blocking(set(keys.values())) if keys else {}
    return found | {task_id: first[key] for task_id, key in keys.items() if first.get(key, task_id) != task_id}


def _runs_first(task: Task) -> bool:
    """Tell whether the task runs its first attempt. As a rule the commit that made it claimed it too, and its status
    says what the attempt is."""
    status = task.status
    return status.state is State.RUNNING and status.attempt == 1 and status.started_at is not None


def _first(status: Status) -> Attempt:
    return Attempt(
        number=status.attempt,
        worker=status.worker,
        session_id=status.session_id,
        started_at=status.started_at or 0.0,
        alone=status.alone,
    )
