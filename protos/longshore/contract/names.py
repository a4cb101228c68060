"""Names and identifiers."""

from __future__ import annotations

import re
from typing import Final

LONGEST_NAME: Final = 63
"""Characters of a name."""
LONGEST_LABEL_VALUE: Final = 255
"""Characters of a label's value."""
LONGEST_KEY: Final = 128
"""Bytes of the key of jobs, in UTF-8."""
LONGEST_DESCRIPTION: Final = 500
"""Characters of a task's description."""
LONGEST_IDENTITY: Final = 255
"""Characters of a target's identity."""
TASK_ID_LENGTH: Final = 26
"""Characters of a task's id."""

_NAME: Final = re.compile(r"[a-z0-9._-]{1,63}")
# LXD, Incus and directory targets allow these names together. LXD allows no digit in front and neither `.` nor `_`:
# an instance with such a name is not found there.
_INSTANCE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}(?<!-)")
_WORKER: Final = re.compile(r"[A-Za-z0-9._-]{1,63}")
_NOT_OF_A_WORKER: Final = re.compile(r"[^A-Za-z0-9._-]")
_LABEL_KEY: Final = re.compile(r"[a-z0-9._/-]{1,63}")
_REQUEST_ID: Final = re.compile(r"[\x20-\x7e]{1,128}")
_ASSIGNED_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_REPORTED_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SESSION_ID: Final = re.compile(r"[A-Za-z0-9-]{16,64}")
_REASON: Final = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
# A directory target makes a path of a name.
_DOTS: Final = frozenset({".", ".."})


def wrong_name(name: str) -> str | None:
    """Say what is wrong with the name of a queue, a target or a kind."""
    if _NAME.fullmatch(name) and name not in _DOTS:
        return None
    return "give 1 to 63 characters of [a-z0-9._-], and not only '.' or '..'"


def wrong_instance(name: str) -> str | None:
    """Say what is wrong with an instance's name."""
    if _INSTANCE.fullmatch(name):
        return None
    return "give 1 to 63 letters, digits, '-', '.' or '_', with no '-' or '.' at the beginning and no '-' at the end"


def wrong_project(name: str) -> str | None:
    """Say what is wrong with a project's name. The empty name is good: it means the target's own project."""
    if len(name) > LONGEST_NAME or name in _DOTS or not name.isprintable() or "/" in name or " " in name:
        return "give at most 63 characters without spaces or slashes, or nothing"
    return None


def wrong_key(key: str) -> str | None:
    """Say what is wrong with the key of jobs. The empty key is good: such jobs have no order."""
    size = len(key.encode("utf-8", "surrogatepass"))
    if size <= LONGEST_KEY and "\0" not in key:
        return None
    return f"has {size} bytes; give at most {LONGEST_KEY}, without NUL"


def wrong_worker(name: str) -> str | None:
    """Say what is wrong with a worker's name."""
    return None if _WORKER.fullmatch(name) else "give 1 to 63 characters of [A-Za-z0-9._-]"


def worker_name(text: str) -> str:
    """Make a worker's name of any text, such as a host's name. An empty text makes the name `worker`."""
    return _NOT_OF_A_WORKER.sub("-", text)[:LONGEST_NAME] or "worker"


def wrong_label_key(key: str) -> str | None:
    """Say what is wrong with a label's key."""
    return None if _LABEL_KEY.fullmatch(key) else "give 1 to 63 characters of [a-z0-9._/-]"


def wrong_label_value(value: str) -> str | None:
    """Say what is wrong with a label's value."""
    if len(value) <= LONGEST_LABEL_VALUE and "\0" not in value:
        return None
    return f"has {len(value)} characters; give at most {LONGEST_LABEL_VALUE}, without NUL"


def wrong_description(text: str) -> str | None:
    """Say what is wrong with a task's description."""
    if len(text) <= LONGEST_DESCRIPTION and "\0" not in text:
        return None
    return f"has {len(text)} characters; give at most {LONGEST_DESCRIPTION}, without NUL"


def wrong_request_id(text: str) -> str | None:
    """Say what is wrong with a request id."""
    return None if _REQUEST_ID.fullmatch(text) else "give 1 to 128 printable ASCII characters"


def wrong_assigned_id(text: str) -> str | None:
    """Say what is wrong with an id that a caller received from a server."""
    return None if _ASSIGNED_ID.fullmatch(text) else "give one as the server assigned it"


def wrong_reported_id(text: str) -> str | None:
    """Say what is wrong with a task's id in a worker's message."""
    return None if _REPORTED_ID.fullmatch(text) else "give 1 to 64 characters of a task's id"


def wrong_session_id(text: str) -> str | None:
    """Say what is wrong with the id of a worker's session."""
    return None if _SESSION_ID.fullmatch(text) else "give 16 to 64 characters of [A-Za-z0-9-]"


def wrong_reason(text: str) -> str | None:
    """Say what is wrong with the reason of an attempt's error."""
    return None if _REASON.fullmatch(text) else "give 1 to 63 characters of [A-Z0-9_], with a letter at the beginning"
