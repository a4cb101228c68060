"""Bytes that are no message: refused by the field that is wrong where it is a string, else by the message's name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from longshore.server.edge.auth.roles import ROLES
from longshore.server.edge.messages import chunks, wire
from longshore.server.model.errors import InvalidField, MalformedMessage, MessageTooLarge
from longshore.v1 import admin_service_pb2, task_pb2, worker_service_pb2
from longshore.v1 import task_service_pb2 as pb

MARK = "QXZ7"
BAD = b"\xff\xfe\xfd\xfc"
OURS = sorted(method for method in ROLES if method.startswith("/longshore."))
DEPTH = 6
SERVICES: list[Any] = [
    one for module in (pb, admin_service_pb2, worker_service_pb2) for one in module.DESCRIPTOR.services_by_name.values()
]


def request_of(method: str) -> Descriptor:
    service, _, name = method.strip("/").rpartition("/")
    (found,) = [one for one in SERVICES if one.full_name == service]
    request: Descriptor = found.methods_by_name[name].input_type
    return request


def strings(message: Any, depth: int = DEPTH) -> Iterator[tuple[Any, str]]:
    """For every string field, at any depth: the message that has it, set in its parents, and the path of the field."""
    for one in message.DESCRIPTOR.fields:
        entry = one.message_type is not None and one.message_type.GetOptions().map_entry
        name = f"{one.name}[0]" if one.is_repeated else one.name
        if one.type == FieldDescriptor.TYPE_STRING:
            if one.is_repeated:
                getattr(message, one.name).append(MARK)
            else:
                setattr(message, one.name, MARK)
            yield message, name
            message.ClearField(one.name)
        elif entry:
            getattr(message, one.name)["k"] = MARK
            yield message, f"{name}.value"
            message.ClearField(one.name)
        elif one.message_type is not None and depth:
            inner = getattr(message, one.name)
            inner = inner.add() if one.is_repeated else inner
            inner.SetInParent()
            for _, path in strings(inner, depth - 1):
                yield message, f"{name}.{path}"
            message.ClearField(one.name)


@pytest.mark.parametrize("method", OURS)
def test_a_string_that_is_not_utf8_is_named_in_every_field_of_every_request(method: str) -> None:
    descriptor = request_of(method)
    kind = message_factory.GetMessageClass(descriptor)
    read = wire.reader(kind.FromString, descriptor)
    message = kind()
    for whole, path in strings(message):
        raw = whole.SerializeToString().replace(MARK.encode(), BAD)
        with pytest.raises(InvalidField) as refused:
            read(raw)
        assert refused.value.field == path
        assert "UTF-8" in refused.value.message


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\xff", b"\x0b\x0b", b"\x0a\x05ab", b"\x07"], ids=repr)
def test_malformed_bytes_are_refused_with_the_name_of_the_message(method: str, raw: bytes) -> None:
    descriptor = request_of(method)
    read = wire.reader(message_factory.GetMessageClass(descriptor).FromString, descriptor)
    with pytest.raises(MalformedMessage, match=descriptor.full_name):
        read(raw)


def test_the_third_of_many_is_named() -> None:
    pushes = [task_pb2.FilePush(destination=task_pb2.Destination(path=f"/{number}")) for number in range(4)]
    pushes[2].destination.path = MARK
    request = pb.SubmitTaskRequest(spec=task_pb2.TaskSpec(file_push=task_pb2.FilePushSpec(pushes=pushes)))
    read = wire.reader(pb.SubmitTaskRequest.FromString, pb.SubmitTaskRequest.DESCRIPTOR)
    with pytest.raises(InvalidField) as refused:
        read(request.SerializeToString().replace(MARK.encode(), BAD))
    assert refused.value.field == "spec.file_push.pushes[2].destination.path"


def test_a_search_for_the_field_has_a_bound() -> None:
    labels = {f"k{number}": "v" for number in range(20_000)} | {"last": MARK}
    raw = task_pb2.TaskSpec(labels=labels).SerializeToString(deterministic=True).replace(MARK.encode(), BAD)
    read = wire.reader(task_pb2.TaskSpec.FromString, task_pb2.TaskSpec.DESCRIPTOR)
    with pytest.raises(MalformedMessage):
        read(raw)


def test_nesting_without_end_is_no_message() -> None:
    raw = b""
    for _ in range(2000):
        raw = pb.SubmitTasksRequest.DESCRIPTOR.fields[0].number.to_bytes() + raw
    read = wire.reader(pb.SubmitTasksRequest.FromString, pb.SubmitTasksRequest.DESCRIPTOR)
    with pytest.raises(MalformedMessage):
        read(raw)


def test_messages_have_a_largest_size() -> None:
    read = wire.reader(chunks.parse, pb.UploadRequest.DESCRIPTOR)
    chunk = pb.UploadRequest(chunk=pb.UploadChunk(data=b"x" * (wire.LARGEST_MESSAGE - 9)))
    assert len(chunk.SerializeToString()) > wire.LARGEST_MESSAGE
    with pytest.raises(MessageTooLarge, match="1 MiB"):
        read(chunk.SerializeToString())
    chunk.chunk.data = b"x" * (wire.LARGEST_MESSAGE - 20)
    read(chunk.SerializeToString())
