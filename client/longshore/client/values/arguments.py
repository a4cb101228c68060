"""Arguments of the client's functions, checked: an error names the argument and what it takes."""

from __future__ import annotations

import math
from datetime import timedelta
from enum import Enum
from typing import Any, Protocol, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from longshore.client.errors import ConfigurationError
from longshore.contract import limits

_M = TypeVar("_M", bound=Message)


class EnumType(Protocol):
    """An enumeration of the contract."""

    def items(self) -> Any:
        """Names and numbers."""


def seconds(
    name: str,
    value: timedelta | float,
    *,
    longest: float = limits.LONGEST_WAIT,
    zero: bool = False,
    endless: bool = False,
) -> float:
    """Check a duration in seconds. Raises ConfigurationError for what is no number, negative, too long or not finite.

    `zero` allows 0, `endless` allows `math.inf`.
    """
    given: object = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise _wrong(name, given, "give seconds as a number, or a timedelta")
    value = given
    if endless and value == math.inf:
        return math.inf
    if wrong := limits.wrong_seconds(value, longest=longest, zero=zero):
        raise _wrong(name, value, wrong + (", or math.inf" if endless else ""))
    return float(value)


def whole(name: str, value: int, least: int, most: int) -> int:
    """Check a whole number in a range. Raises ConfigurationError."""
    given: object = value
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
        raise _wrong(name, value, f"give a whole number from {least} to {most}")
    return value


def text(name: str, value: str) -> str:
    """Check a text that UTF-8 can write. Raises ConfigurationError."""
    given: object = value
    if not isinstance(given, str):
        raise _wrong(name, given, "give a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{name} is {shown(value)}, which is not UTF-8: give it in UTF-8") from None
    return value


def message(kind: type[_M], /, **fields: Any) -> _M:
    """Make a message of the contract with these fields. Raises ConfigurationError that names the field which it cannot
    have.

    A text may not be None; any other field that is None stays unset.
    """
    made = kind()
    for name, value in fields.items():
        if made.DESCRIPTOR.fields_by_name[name].type == FieldDescriptor.TYPE_STRING:
            text(name, value)
        try:
            made.MergeFrom(kind(**{name: value}))
        except (TypeError, ValueError) as error:
            raise _wrong(name, value, f"the contract cannot say that ({error})") from error
    return made


def permissions(name: str, value: int | str) -> int:
    """Permission bits: an int such as 0o644, or octal digits such as "644". Raises ConfigurationError."""
    given: object = value
    if isinstance(value, str):
        digits = value.removeprefix("0o")
        if not digits or len(digits) > 4 or set(digits) - set("01234567"):
            raise _wrong(name, value, 'give octal digits from "0" to "777", such as "644", or an int such as 0o644')
        value = int(digits, 8)
    elif isinstance(given, bool) or not isinstance(given, int):
        raise _wrong(name, value, 'give an int such as 0o644, or octal digits such as "644"')
    if wrong := limits.wrong_mode(value):
        # 644 without its 0o is the usual slip.
        hint = f" (0o{value}?)" if 0 <= value <= 777 and set(str(value)) <= set("01234567") else ""
        raise ConfigurationError(f"{name} is {value:#o}{hint}: {wrong}", reason="INVALID_ARGUMENT")
    return value


def choice(name: str, value: int | str, kind: EnumType, *, prefix: str) -> int:
    """Find a value of the contract's enumeration, by its number or by its name with or without the prefix, in any
    case."""
    known = {each.removeprefix(prefix).lower(): number for each, number in kind.items() if number}
    given: object = value
    if isinstance(value, str):
        short = value.lower().removeprefix(prefix.lower()).replace("-", "_")
        if short in known:
            return int(known[short])
    elif isinstance(given, int) and not isinstance(given, bool) and given in {0, *known.values()}:
        return int(given)
    names = ", ".join(f'"{each}"' for each in known)
    raise _wrong(name, value, f"give one of {names}")


def shown(value: str) -> str:
    """Return a text for people, in which escapes stand for what UTF-8 cannot write: `caf\\xe9`."""
    try:
        written = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        written = value.encode("utf-8", "backslashreplace")
    return written.decode("utf-8", "backslashreplace")


def _wrong(name: str, value: object, remedy: str) -> ConfigurationError:
    said = repr(value)
    if isinstance(value, Enum) or len(said) > 80:
        said = f"a {type(value).__name__}"
    return ConfigurationError(f"{name} is {said}: {remedy}", reason="INVALID_ARGUMENT")
