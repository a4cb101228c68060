"""This module makes the filter of `list` from plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TypedDict

from google.protobuf.timestamp_pb2 import Timestamp

from longshore.client.errors import ConfigurationError
from longshore.client.values import arguments
from longshore.client.values.specs import TaskState, checked_labels, states
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb


class FilterOptions(TypedDict, total=False):
    """`list` takes these conditions by name; a task must fulfil each one that is given."""

    state: str | int | Iterable[str | int]
    """States: members of `enums.TaskState`, or names such as "failed", "live" and "done"."""
    kind: str | Iterable[str]
    queue: str
    target: str
    instance: str
    labels: Mapping[str, str]
    created_after: datetime
    created_before: datetime
    request_id: str
    creator: str
    id_prefix: str


def task_filter(
    base: pb.TaskFilter | None = None,
    *,
    state: str | int | Iterable[str | int] = (),
    kind: str | Iterable[str] = (),
    queue: str = "",
    target: str = "",
    instance: str = "",
    labels: Mapping[str, str] | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    request_id: str = "",
    creator: str = "",
    id_prefix: str = "",
) -> pb.TaskFilter:
    """Make a filter of `base` and of these conditions. Raises ConfigurationError that names the argument."""
    given: object = base
    if given is not None and not isinstance(given, pb.TaskFilter):
        raise ConfigurationError(f"filter is a {type(given).__name__}: give a TaskFilter, or arguments by their names")
    wanted = pb.TaskFilter(
        states=_states(state),
        kinds=[arguments.text("kind", each) for each in ([kind] if isinstance(kind, str) else kind)],
        queue=arguments.text("queue", queue),
        target=arguments.text("target", target),
        instance=arguments.text("instance", instance),
        labels=checked_labels(labels),
        created_after=_timestamp("created_after", created_after),
        created_before=_timestamp("created_before", created_before),
        request_id=arguments.text("request_id", request_id),
        creator=arguments.text("creator", creator),
        id_prefix=arguments.text("id_prefix", id_prefix),
    )
    if base is not None:
        wanted.MergeFrom(base)
    return wanted


def _states(given: str | int | Iterable[str | int]) -> list[TaskState]:
    found: set[TaskState] = set()
    for each in [given] if isinstance(given, str | int) else given:
        if isinstance(each, str):
            found.update(states([each.upper().removeprefix("TASK_STATE_")]))
        else:
            number = arguments.choice("state", each, task_pb2.TaskState, prefix="TASK_STATE_")
            found.add(task_pb2.TaskState.ValueType(number))
    return sorted(found)


def _timestamp(name: str, moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    given: object = moment
    if not isinstance(given, datetime) or given.tzinfo is None:
        raise ConfigurationError(f"{name} is {given!r}: give a datetime with a time zone, as in datetime.now(UTC)")
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
