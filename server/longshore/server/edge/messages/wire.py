"""This module parses the messages of a call. They stay bytes until the caller is known, and bytes that are no message
are refused.

protobuf says of wrong bytes only that it cannot parse them. Where a string that is not UTF-8 is what is wrong, the
bytes are walked once more to name its field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from longshore.server.model.errors import InvalidField, LongshoreError, MalformedMessage, MessageTooLarge

LARGEST_MESSAGE: Final = 4 << 20
"""Bytes of one message, which the contract promises."""
MARGIN: Final = 1 << 20
"""gRPC's core lets this much more in: what it refuses itself carries no word on the remedy. A client with chunks of
4 MiB, which make messages of a few bytes more, is the usual case."""

_MOST_FIELDS: Final = 10_000
"""The most fields of a message that are walked. Each takes about 1 µs of the loop, and a message holds four million."""
_DEEPEST: Final = 100
"""The most messages within one another that are walked, as protobuf has it."""

Parse = Callable[[bytes], Any]


def reader(parse: Parse, message: Descriptor | None) -> Parse:
    """Return `parse` with refusals of ours. `message` None means that the type has no name: no string is looked for.

    The result raises InvalidField, MalformedMessage, MessageTooLarge.
    """

    def read(raw: bytes) -> Any:
        if len(raw) > LARGEST_MESSAGE:
            raise MessageTooLarge(
                f"The message has {len(raw)} bytes, and at most {LARGEST_MESSAGE} are taken. Send smaller ones: chunks "
                "of 1 MiB, fewer destinations or submissions at once.",
                limit=str(LARGEST_MESSAGE),
            )
        try:
            return parse(raw)
        except (DecodeError, ValueError) as error:
            raise _refusal(raw, message) from error

    return read


def missing(message: Descriptor | None) -> MalformedMessage:
    """Make the refusal of a call that ended before its message."""
    return MalformedMessage(f"The call ended before its {_name(message)} came.", type=_name(message))


def _refusal(raw: bytes, message: Descriptor | None) -> LongshoreError:
    if message is not None:
        path = _FieldWalk(raw).undecodable(message)
        if path:
            return InvalidField(path, "is not UTF-8, as every string of protobuf must be; send it encoded so.")
    name = _name(message)
    return MalformedMessage(
        f"These {len(raw)} bytes are no {name}. Make the client's stub from the .proto files of this server's version, "
        "and send what it serializes.",
        type=name,
    )


def _name(message: Descriptor | None) -> str:
    return "message of this RPC" if message is None else message.full_name


class _FieldWalk:
    """Looks through the fields of a message, up to a bound, for a string that is not UTF-8."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._left = _MOST_FIELDS

    def undecodable(self, message: Descriptor) -> str:
        """Return the path of the first such string. Empty means that there is none, or that something else is wrong
        before it."""
        try:
            return self._look(message, 0, len(self._raw), "", _DEEPEST)
        except (IndexError, ValueError):
            return ""

    def _look(self, message: Descriptor, at: int, end: int, prefix: str, depth: int) -> str:
        if not depth:
            raise ValueError("too deep")
        seen: dict[int, int] = {}
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError("too many fields")
            tag, at = self._varint(at)
            number, kind = tag >> 3, tag & 7
            if kind == 0:
                _, at = self._varint(at)
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
            elif kind == 2:
                length, at = self._varint(at)
                if at + length > end:
                    raise ValueError("cut off")
                field = message.fields_by_number.get(number)
                if field is not None:
                    position = seen.get(number, 0)
                    seen[number] = position + 1
                    found = self._within(field, at, at + length, prefix + _named(field, position), depth)
                    if found:
                        return found
                at += length
            else:
                raise ValueError("no wire type of proto3")
        return ""

    def _within(self, field: FieldDescriptor, at: int, end: int, path: str, depth: int) -> str:
        if field.type == FieldDescriptor.TYPE_STRING:
            try:
                self._raw[at:end].decode()
            except UnicodeDecodeError:
                return path
        elif field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None:
            return self._look(field.message_type, at, end, f"{path}.", depth - 1)
        return ""

    def _varint(self, at: int) -> tuple[int, int]:
        value = shift = 0
        while shift < 70:
            byte = self._raw[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise ValueError("no varint")


def _named(field: FieldDescriptor, position: int) -> str:
    return f"{field.name}[{position}]" if field.is_repeated else field.name
