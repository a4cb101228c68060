"""What to do, put together from plain values: destinations, specs, durations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Final, TypeAlias

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from longshore.client.errors import ConfigurationError
from longshore.v1 import task_pb2

_MICROSECONDS: Final = 1_000_000

# Enum values are ints with a type that only checkers see.
TaskState: TypeAlias = "task_pb2.TaskState.ValueType"
IfExists: TypeAlias = "task_pb2.IfExists.ValueType"
WhenStopped: TypeAlias = "task_pb2.WhenStopped.ValueType"
WhenAbsent: TypeAlias = "task_pb2.WhenAbsent.ValueType"


def parse_destination(text: str, *, project: str = "", default_name: str = "") -> task_pb2.Destination:
    """Read `[TARGET:]INSTANCE/PATH`, as in `web/etc/motd` or `east:web/etc/motd`.

    A path that ends in `/` is a directory and gets `default_name` appended. Raises ConfigurationError; whether the
    names are good ones is for the server to say.
    """
    place, slash, path = text.partition("/")
    target, colon, instance = place.rpartition(":")
    if not slash or not instance or (colon and not target):
        raise ConfigurationError(f"{text!r} is no destination; expected [TARGET:]INSTANCE/PATH, as in web/etc/motd")
    if not path or path.endswith("/"):
        if not default_name:
            raise ConfigurationError(f"{text!r} is a directory; add the name that the file gets there")
        path += default_name
    return task_pb2.Destination(target=target, project=project, instance=instance, path=f"/{path}")


def push_spec(
    *to: str | task_pb2.Destination,
    project: str = "",
    default_name: str = "",
    mode: int | None = None,
    uid: int | None = None,
    gid: int | None = None,
    create_parents: bool = False,
    if_exists: IfExists = task_pb2.IF_EXISTS_UNSPECIFIED,
    when_stopped: WhenStopped = task_pb2.WHEN_STOPPED_UNSPECIFIED,
    when_absent: WhenAbsent = task_pb2.WHEN_ABSENT_UNSPECIFIED,
    read_back: bool = False,
    queue: str = "",
    priority: int = 0,
    labels: Mapping[str, str] | None = None,
    not_before: timedelta | float | None = None,
    expire_after: timedelta | float | None = None,
    run_timeout: timedelta | float | None = None,
    stall_timeout: timedelta | float | None = None,
    attempt_limit: int = 0,
) -> task_pb2.TaskSpec:
    """Push one file to each of these destinations, all in the same manner. Durations in seconds or as timedelta.

    Fields mean what they mean in `FilePush` and `TaskSpec` of the contract; what is left out is the server's default.
    """
    pushes = [
        task_pb2.FilePush(
            destination=parse_destination(each, project=project, default_name=default_name)
            if isinstance(each, str)
            else each,
            mode=mode,
            uid=uid,
            gid=gid,
            create_parents=create_parents,
            if_exists=if_exists,
            when_stopped=when_stopped,
            when_absent=when_absent,
            read_back=read_back,
        )
        for each in to
    ]
    return task_pb2.TaskSpec(
        file_push=task_pb2.FilePushSpec(pushes=pushes),
        queue=queue,
        priority=priority,
        labels=labels,
        not_before=duration(not_before),
        expire_after=duration(expire_after),
        run_timeout=duration(run_timeout),
        stall_timeout=duration(stall_timeout),
        attempt_limit=attempt_limit,
    )


def job_spec(
    kind: str,
    arguments: Message | None = None,
    *,
    target: str = "",
    instance: str = "",
    queue: str = "",
    priority: int = 0,
    labels: Mapping[str, str] | None = None,
    not_before: timedelta | float | None = None,
    expire_after: timedelta | float | None = None,
    run_timeout: timedelta | float | None = None,
    stall_timeout: timedelta | float | None = None,
    attempt_limit: int = 0,
) -> task_pb2.TaskSpec:
    """Run the handler `kind` with these arguments: any message, packed unless it is an Any already."""
    return task_pb2.TaskSpec(
        job=task_pb2.JobSpec(kind=kind, arguments=packed(arguments), target=target, instance=instance),
        queue=queue,
        priority=priority,
        labels=labels,
        not_before=duration(not_before),
        expire_after=duration(expire_after),
        run_timeout=duration(run_timeout),
        stall_timeout=duration(stall_timeout),
        attempt_limit=attempt_limit,
    )


def packed(message: Message | None) -> AnyMessage | None:
    """The message as an Any."""
    if message is None or isinstance(message, AnyMessage):
        return message
    wrapped = AnyMessage()
    wrapped.Pack(message)
    return wrapped


def duration(value: timedelta | float | None) -> Duration | None:
    """Seconds or a timedelta as the contract has it; None stays unset."""
    if value is None:
        return None
    whole = Duration()
    if isinstance(value, timedelta):
        whole.FromTimedelta(value)
    else:
        whole.FromMicroseconds(round(value * _MICROSECONDS))
    return whole


def states(names: Iterable[str]) -> list[TaskState]:
    """States by their short names, such as `running`, in any case; also `live` and `done` for all of a sort."""
    found: list[TaskState] = []
    for name in names:
        match name.lower():
            case "live":
                found += [state for state in ALL_STATES if state < task_pb2.TASK_STATE_SUCCEEDED]
            case "done":
                found += [state for state in ALL_STATES if state >= task_pb2.TASK_STATE_SUCCEEDED]
            case short if short in STATE_NAMES.values():
                found += [state for state, known in STATE_NAMES.items() if known == short]
            case _:
                known = ", ".join(STATE_NAMES.values())
                raise ConfigurationError(f"there is no state {name!r}; there are {known}, and live and done for many")
    return sorted(set(found))


ALL_STATES: Final = tuple(value for value in task_pb2.TaskState.values() if value)
"""Every state that a task can be in."""
STATE_NAMES: Final[Mapping[TaskState, str]] = {
    value: task_pb2.TaskState.Name(value).removeprefix("TASK_STATE_").lower() for value in ALL_STATES
}
"""Short names for people, such as `succeeded`."""
