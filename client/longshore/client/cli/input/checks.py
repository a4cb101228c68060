"""This module checks names, paths and durations before a server is asked: by the server's rules, in the words of the
command line. The server may still refuse a value that passes here."""

from __future__ import annotations

from typing import Final

from longshore.client.errors import ConfigurationError
from longshore.contract import limits, names, paths
from longshore.v1 import task_pb2

OWNERS: Final = limits.LARGEST_OWNER


def name(text: str) -> str:
    """Check the name of a queue, a target or a kind. Raises ValueError."""
    if text and (wrong := names.wrong_name(text)):
        raise ValueError(f"{text[:80]!r} is no name; {wrong}")
    return text


def instance(text: str) -> str:
    """Check an instance's name. Raises ValueError."""
    if text and (wrong := names.wrong_instance(text)):
        raise ValueError(f"{text[:80]!r} is no name of an instance; {wrong}")
    return text


def project(text: str) -> str:
    """Check a project's name, which may be empty. Raises ValueError."""
    if wrong := names.wrong_project(text):
        raise ValueError(f"{text[:80]!r} is no name of a project; {wrong}")
    return text


def key(text: str) -> str:
    """Check the key of jobs, which may be empty. Raises ValueError."""
    if wrong := names.wrong_key(text):
        raise ValueError(f"it {wrong}")
    return text


def label(key: str, value: str) -> None:
    """Check one label. Raises ValueError."""
    if wrong := names.wrong_label_key(key):
        raise ValueError(f"{key[:80]!r} is no key of a label; {wrong}")
    if wrong := names.wrong_label_value(value):
        raise ValueError(f"the value of {key!r} {wrong}")


def request_id(text: str) -> str:
    """Check a request id. Raises ValueError."""
    if text and (wrong := names.wrong_request_id(text)):
        raise ValueError(f"{text[:140]!r} is no request id; {wrong}")
    return text


def reason(text: str) -> str:
    """Check the reason for a cancel. Raises ValueError."""
    if len(text) > limits.LONGEST_CANCEL_REASON:
        raise ValueError(f"it has {len(text)} characters; at most {limits.LONGEST_CANCEL_REASON}")
    return text


def waits(seconds: float) -> float:
    """Check a time from now, which may be zero. Raises ValueError."""
    return _duration(seconds, limits.LONGEST_WAIT, zero=True)


def expires(seconds: float) -> float:
    """Check a time from now that is not zero. Raises ValueError."""
    return _duration(seconds, limits.LONGEST_WAIT)


def runs(seconds: float) -> float:
    """Check the length of an attempt. Raises ValueError."""
    return _duration(seconds, limits.LONGEST_RUN)


def _duration(seconds: float, longest: float, *, zero: bool = False) -> float:
    if limits.wrong_seconds(seconds, longest=longest, zero=zero):
        # The server speaks of seconds, and the command line of days.
        raise ValueError(f"at most {longest / limits.DAY:.0f}d" if seconds > longest else "give more than 0")
    return seconds


def destination(text: str, to: task_pb2.Destination) -> task_pb2.Destination:
    """Check a destination that was read from `text`. Raises ConfigurationError."""
    if to.target and (wrong := names.wrong_name(to.target)):
        raise ConfigurationError(f"{text}: {to.target[:80]!r} is no name of a target; {wrong}")
    try:
        project(to.project)
        instance(to.instance)
    except ValueError as error:
        raise ConfigurationError(f"{text}: {error}") from None
    if wrong_path := paths.wrong_destination(to.path):
        raise ConfigurationError(f"{text}: the path {wrong_path.text}")
    return to


def together(*, not_before: float | None, expire_after: float | None) -> None:
    """Check two options that must fit together. Raises ConfigurationError."""
    if not_before is not None and expire_after is not None and not_before >= expire_after:
        raise ConfigurationError("--not-before is not before --expire-after: the task would expire unstarted")
