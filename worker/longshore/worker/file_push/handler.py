"""The built-in kind `file_push` is written on the public handler API alone: it makes a `Push` of a task, and a report
of the result."""

from __future__ import annotations

from typing import Final

from longshore.contract.enums import IfExists, WhenAbsent, WhenStopped, chosen
from longshore.v1 import task_pb2
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.attempts.context import Context
from longshore.worker.attempts.handlers import Registry
from longshore.worker.errors import PermanentError, Reason
from longshore.worker.file_push.model import NEW_FILE_MODE
from longshore.worker.file_push.push import (
    Push,
    push_file,
    remove_temps,
    settle_push,
)
from longshore.worker.targets.base import Attributes, Content, Settlement, Source

__all__ = ["KIND", "file_push", "push_of", "register", "remove_temps", "settle_file_push"]

KIND: Final = "file_push"

_METHODS: Final = {
    task_pb2.DELIVERY_METHOD_SFTP: "SFTP",
    task_pb2.DELIVERY_METHOD_DIRECTORY: "DIRECTORY",
    task_pb2.DELIVERY_METHOD_FILES_API: "FILES_API",
    task_pb2.DELIVERY_METHOD_IN_PLACE: "IN_PLACE",
}


def register(registry: Registry) -> None:
    """Add the kind to a worker's handlers."""
    registry.add(KIND, file_push, settle=settle_file_push)


def file_push(context: Context) -> None:
    """Push the task's payload to its destination. See `push_file` for what is raised."""
    push = push_of(context.task, context.attempt)
    pushed = push_file(push, _Steps(context), context.target(), pause=context.sleep)
    if pushed.left_temps:
        context.left_temps()


def settle_file_push(context: Context, order: ws.SettleOrder) -> Settlement:
    """Find out what became of a granted push whose worker was lost. Raises `AttemptError` when that must wait."""
    task = context.task
    push = push_of(
        task,
        order.granted_attempt,
        # As the granted attempt was to leave them; what it did not say is not compared.
        attributes=Attributes(
            order.mode if order.HasField("mode") else None,
            order.uid if order.HasField("uid") else None,
            order.gid if order.HasField("gid") else None,
        ),
        crc32c=order.crc32c if order.HasField("crc32c") else task.payload.crc32c,
    )
    method = _METHODS.get(order.delivery_method, "")
    return settle_push(push, context.target(), temp=order.temp, method=method, check=context.check)


def push_of(
    task: task_pb2.Task, attempt: int, *, attributes: Attributes | None = None, crc32c: int | None = None
) -> Push:
    """Make a push of a task. Raises PermanentError (INVALID_ARGUMENT) for values that this worker does not know."""
    spec = task.file_push
    if_exists = chosen(spec.if_exists, IfExists, default=IfExists.REPLACE)
    when_stopped = chosen(spec.when_stopped, WhenStopped, default=WhenStopped.DELIVER)
    when_absent = chosen(spec.when_absent, WhenAbsent, default=WhenAbsent.FAIL)
    if if_exists is None or when_stopped is None or when_absent is None:
        raise PermanentError(
            Reason.INVALID_ARGUMENT,
            f"the task asks for something newer than this worker (if_exists {spec.if_exists}, when_stopped "
            f"{spec.when_stopped}, when_absent {spec.when_absent}): upgrade the worker",
        )
    if attributes is None:
        attributes = Attributes(
            spec.mode if spec.HasField("mode") else None,
            spec.uid if spec.HasField("uid") else None,
            spec.gid if spec.HasField("gid") else None,
        )
    return Push(
        task_id=task.id,
        attempt=attempt,
        project=spec.destination.project,
        instance=spec.destination.instance,
        path=spec.destination.path,
        size=task.payload.size,
        crc32c=task.payload.crc32c if crc32c is None else crc32c,
        attributes=attributes,
        create_parents=spec.create_parents,
        parents_mode=spec.parents_mode if spec.HasField("parents_mode") else None,
        in_place=spec.in_place,
        replace=if_exists is IfExists.REPLACE,
        when_stopped=when_stopped,
        when_absent=when_absent,
        read_back=spec.read_back,
        mode_if_new=spec.mode_if_new if spec.HasField("mode_if_new") else NEW_FILE_MODE,
    )


class _Steps:
    """A handler's context as a push sees it."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def check(self) -> None:
        self._context.check()

    def progress(self, done: int, total: int) -> None:
        self._context.progress(done, total)

    def commit(self, temp: str, *, method: str, content: Content) -> None:
        kept = content.attributes
        self._context.commit(temp, method=method, crc32c=content.crc32c, mode=kept.mode, uid=kept.uid, gid=kept.gid)

    def open_payload(self) -> Source:
        return self._context.open_payload()
