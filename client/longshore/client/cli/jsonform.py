"""Messages as JSON: protobuf's own mapping, with the contract's field names and every field that has a value.

64-bit numbers are strings and bytes are base64, as that mapping has it.
"""

from __future__ import annotations

import base64
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from longshore.v1 import task_pb2


def to_json(message: Message) -> dict[str, Any]:
    """What `json.dumps` takes."""
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


def _fields(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _known(value: AnyMessage) -> bool:
    try:
        descriptor_pool.Default().FindMessageTypeByName(value.type_url.rpartition("/")[2])
    except KeyError:
        return False
    return True
