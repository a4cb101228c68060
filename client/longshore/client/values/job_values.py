"""Arguments and results of jobs as plain values: dicts, dataclasses, pydantic models; and back from messages.

A mapping goes over the wire as `google.protobuf.Struct`, which every language and `longshore submit --json` can write.
A Struct knows one kind of number, a double: so whole numbers go up to 2**53, and they come back as int.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from google.protobuf import struct_pb2, wrappers_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pool import Default as default_pool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from longshore.client.errors import ConfigurationError
from longshore.client.values import arguments
from longshore.v1 import task_pb2

T = TypeVar("T")

LARGEST_WHOLE: Final = 2**53
"""A double holds every whole number up to this one exactly."""
_PLAIN: Final = (struct_pb2.Struct, struct_pb2.ListValue, struct_pb2.Value)
_WRAPPERS: Final = (
    wrappers_pb2.BoolValue,
    wrappers_pb2.BytesValue,
    wrappers_pb2.DoubleValue,
    wrappers_pb2.FloatValue,
    wrappers_pb2.Int32Value,
    wrappers_pb2.Int64Value,
    wrappers_pb2.StringValue,
    wrappers_pb2.UInt32Value,
    wrappers_pb2.UInt64Value,
)


def packed(value: object, *, name: str = "the value") -> AnyMessage | None:
    """Pack a value into an Any: a message as it is, a mapping, dataclass or model as a Struct, a list as a ListValue.

    None stays None. Raises ConfigurationError that names the argument, and the place in it that JSON cannot say.
    """
    if value is None or isinstance(value, AnyMessage):
        return value
    wrapped = AnyMessage()
    wrapped.Pack(value if isinstance(value, Message) else _message(value, name=name))
    return wrapped


def result_of(task: task_pb2.Task) -> Any:
    """Return the result of a job: a dict, list or value where the handler returned one, else its message.

    None means that there is no result. A message of a type that this process has not imported is an `Any`.
    """
    return plain(task.result) if task.HasField("result") else None


def arguments_of(task: task_pb2.Task) -> Any:
    """Return the arguments of a job, in the same form as `result_of`. None means that it has no arguments."""
    return plain(task.job.arguments) if task.job.HasField("arguments") else None


def plain(packed: AnyMessage) -> Any:
    """Unpack an Any: a Struct as a dict, a ListValue as a list, a wrapper as its value, else the message.

    A message of a type that this process has not imported stays an Any. Raises ConfigurationError for damaged bytes.
    """
    name = packed.type_url.rpartition("/")[2]
    try:
        message = GetMessageClass(default_pool().FindMessageTypeByName(name))()
    except KeyError:
        return packed
    try:
        packed.Unpack(message)
    except DecodeError:
        raise ConfigurationError(f"the value says that it is a {name}, and cannot be read as one") from None
    if isinstance(message, _PLAIN):
        from google.protobuf.json_format import MessageToDict

        return _whole(MessageToDict(message))
    if isinstance(message, _WRAPPERS):
        return message.value
    return message


def built(kind: type[T], fields: Any) -> T:
    """Make a dataclass, pydantic model or dict of a dict. Raises ValueError or TypeError when they do not fit."""
    if not isinstance(fields, dict):
        raise TypeError(f"a {type(fields).__name__} is no {kind.__name__}")
    validate = getattr(kind, "model_validate", None)
    if callable(validate):
        made: T = validate(fields)
        return made
    return kind(**fields)


def is_plain_kind(kind: type[Any]) -> bool:
    """Return whether `built` can make the type: dict, a dataclass, a pydantic model."""
    return kind is dict or dataclasses.is_dataclass(kind) or callable(getattr(kind, "model_validate", None))


def _message(value: object, *, name: str) -> Message:
    found = _jsonable(value, name)
    if isinstance(found, dict):
        struct = struct_pb2.Struct()
        struct.update(found)
        return struct
    if isinstance(found, list):
        items = struct_pb2.ListValue()
        items.extend(found)
        return items
    raise ConfigurationError(
        f"{name} is a {type(value).__name__}: give a dict, a dataclass, a pydantic model or a message",
        reason="INVALID_ARGUMENT",
    )


def _jsonable(value: Any, where: str) -> Any:
    """Return the value in a form that a Struct can hold. Raises ConfigurationError that names the place."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(arguments.text(where, value))
    if isinstance(value, int):
        if abs(value) > LARGEST_WHOLE:
            raise _unfit(where, f"is {value}, and whole numbers are exact up to 2**53: give it as a text")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _unfit(where, f"is {value}, which JSON does not know: give None or a text")
        return float(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise _unfit(where, f"has the key {key!r}: keys are texts")
            arguments.text(f"a key of {where}", key)
        return {str(key): _jsonable(each, f"{where}[{key!r}]") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(each, f"{where}[{number}]") for number, each in enumerate(value)]
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        # pydantic's own JSON mode writes dates, enumerations and the like as texts.
        return _jsonable(dump(mode="json"), where)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {key: _jsonable(each, f"{where}.{key}") for key, each in fields.items()}
    remedy = "upload bytes as the content, or give a text" if isinstance(value, bytes | bytearray) else "give a text"
    raise _unfit(where, f"is a {type(value).__name__}, which JSON does not know: {remedy}")


def _unfit(where: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"{where} {what}", reason="INVALID_ARGUMENT")


def _whole(value: Any) -> Any:
    """Turn doubles that are whole numbers into int, so that 4 stays 4."""
    match value:
        case float() if value.is_integer() and abs(value) <= LARGEST_WHOLE:
            return int(value)
        case dict():
            return {key: _whole(each) for key, each in value.items()}
        case list():
            return [_whole(each) for each in value]
    return value
