"""Messages as JSON: protobuf's own mapping, with the contract's field names and every field that has a value.

64-bit numbers are strings and bytes are base64, as that mapping has it. The figures of `stats` name states as tasks do.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from longshore.v1 import admin_service_pb2, task_pb2, task_service_pb2

_STATE: Final = "TASK_STATE_"


def to_json(message: Message) -> dict[str, Any]:
    """Make a message into a dict that `json.dumps` takes."""
    if isinstance(message, admin_service_pb2.GetStatsResponse):
        return _figures(message)
    if isinstance(message, task_service_pb2.Batch):
        return _batch(message)
    if not isinstance(message, task_pb2.Task):
        return _fields(message)
    task = task_pb2.Task()
    task.CopyFrom(message)
    # Arguments and results are of types that only their kind's team may know.
    foreign: list[tuple[list[str], AnyMessage]] = []
    if task.HasField("job") and task.job.HasField("arguments") and not _known(task.job.arguments):
        foreign.append((["job", "arguments"], message.job.arguments))
        task.job.ClearField("arguments")
    if task.HasField("result") and not _known(task.result):
        foreign.append((["result"], message.result))
        task.ClearField("result")
    fields = _fields(task)
    for path, value in foreign:
        place = fields
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = {"@type": value.type_url, "value": base64.b64encode(value.value).decode("ascii")}
    return fields


def _batch(message: task_service_pb2.Batch) -> dict[str, Any]:
    batch = task_service_pb2.Batch()
    batch.CopyFrom(message)
    batch.ClearField("failures")
    failures = [to_json(task) for task in message.failures]
    return _fields(batch) | ({"failures": failures} if failures else {})


def in_one_line(value: AnyMessage) -> str:
    """Arguments or a result for people: JSON without the type's name, of a Struct its object. What is of a type that is
    not known here has the name and its bytes as base64. Keys are sorted: a map of protobuf has no order."""
    fields: Any = {"@type": value.type_url, "value": base64.b64encode(value.value).decode("ascii")}
    if _known(value):
        try:
            fields = _fields(value)
        except DecodeError:
            # It says that it is of that type, and is not: shown as it is.
            return json.dumps(fields, ensure_ascii=False, sort_keys=True)
        del fields["@type"]
        if value.type_url.rpartition("/")[2].startswith("google.protobuf.") and set(fields) == {"value"}:
            fields = _with_whole_numbers(fields["value"])
    return json.dumps(fields, ensure_ascii=False, sort_keys=True)


def _with_whole_numbers(value: Any) -> Any:
    """Turn whole doubles into int: a Struct has doubles only, so a 4 that was typed comes back as 4.0."""
    match value:
        case dict():
            return {key: _with_whole_numbers(each) for key, each in value.items()}
        case list():
            return [_with_whole_numbers(each) for each in value]
        case float() if value.is_integer() and abs(value) < 2**53:
            return int(value)
    return value


def _figures(message: admin_service_pb2.GetStatsResponse) -> dict[str, Any]:
    fields = _fields(message)
    fields["finished"] = _with_state_names(fields["finished"])
    for queue in fields["queues"]:
        queue["live"] = _with_state_names(queue["live"])
    return fields


def _with_state_names(counts: dict[str, Any]) -> dict[str, Any]:
    return {f"{_STATE}{state.removeprefix(_STATE)}": count for state, count in counts.items()}


def _fields(message: Message) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _known(value: AnyMessage) -> bool:
    try:
        descriptor_pool.Default().FindMessageTypeByName(value.type_url.rpartition("/")[2])
    except KeyError:
        return False
    return True
