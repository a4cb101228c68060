"""This module decides which tasks a caller may read: an operator all, a submitter its own, a worker those that its
sessions hold."""

from __future__ import annotations

from dataclasses import dataclass

from longshore.server.edge.auth.principal import Principal
from longshore.server.model.access import Role
from longshore.server.model.errors import NotFound, NotYourAttempt
from longshore.server.model.task import Task
from longshore.server.store.protocol import Store


@dataclass(frozen=True, slots=True)
class Held:
    """A task that is shown because a session of the caller holds it. `task` is as it was when it was looked at."""

    task: Task

    def check(self, update: Task) -> None:
        """Raise NotYourAttempt unless the update may be shown: as long as the same attempt is held, and its end."""
        held, now = self.task.status, update.status
        if now.revision <= held.revision or (now.session_id, now.attempt) == (held.session_id, held.attempt):
            return
        if now.state.terminal and now.attempt == held.attempt:
            return
        raise NotYourAttempt(
            f"Attempt {held.attempt} of task {update.id} is not any more this session's: stop it.", task_id=update.id
        )


async def visible(store: Store, caller: Principal, task_id: str) -> tuple[Task, Held | None]:
    """Return the task, and Held if the caller sees it only because it holds it. Raises NotFound, also where the caller
    may not see the task."""
    if caller.operator or Role.SUBMIT in caller.roles:
        task = await store.task(task_id, creator=caller.scope)
        if task is not None:
            return task, None
    if not caller.operator and caller.works:
        task = await store.task(task_id)
        if task is not None and await _holds(store, caller, task):
            return task, Held(task)
    raise NotFound(f"There is no task {task_id!r} of yours, or its history is removed.", task_id=task_id)


async def _holds(store: Store, caller: Principal, task: Task) -> bool:
    if not task.status.session_id:
        return False
    session = await store.session(task.status.session_id)
    return session is not None and session.principal == caller.name
