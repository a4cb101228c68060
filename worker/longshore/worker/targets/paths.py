"""Paths and names inside an instance: what is allowed, and how temps are called. Pure."""

from __future__ import annotations

import hashlib
import posixpath
import re
from typing import Final

from longshore.worker.errors import PermanentError, Reason

NAME_MAX: Final = 255
"""Longest file name in bytes (Linux)."""
PATH_MAX: Final = 4096
"""Longest path in bytes, the closing NUL included (Linux)."""
MAX_TRIES_PER_ATTEMPT: Final = 4
"""Tries inside one attempt. Bounded, so that all temps an attempt may have left can be named."""
MODE_MAX: Final = 0o777

_INSTANCE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}(?<!-)")
_TEMP: Final = re.compile(r"\.longshore-[A-Za-z0-9_-]{1,64}-[0-9]+-[0-9]+\.tmp")
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def normalise(path: str) -> str:
    """The one spelling of an instance path: absolute, single slashes, no `.`; raises PermanentError for anything else.

    `..` is refused and not resolved, since what it means depends on symlinks that are only known at the target.
    """
    if not path.startswith("/"):
        raise _invalid(f"the path {path!r} is not absolute: begin it with '/'")
    if "\0" in path:
        raise _invalid("the path contains a NUL byte, which no file name can hold")
    if path.endswith("/"):
        raise _invalid(f"the path {path!r} ends with '/': name the file, not its folder")
    names = [name for name in path.split("/") if name not in ("", ".")]
    if ".." in names:
        raise PermanentError(Reason.PATH_ESCAPES, f"the path {path!r} contains '..': write the path out")
    if not names or path.endswith("/."):
        raise _invalid(f"the path {path!r} names a folder: name the file in it")
    for name in names:
        if _size(name) > NAME_MAX:
            raise PermanentError(
                Reason.NAME_TOO_LONG, f"a part of the path is longer than {NAME_MAX} bytes: {name[:40]!r}..."
            )
    result = "/" + "/".join(names)
    if _size(result) >= PATH_MAX:
        raise PermanentError(Reason.NAME_TOO_LONG, f"the path is longer than {PATH_MAX - 1} bytes")
    return result


def folder_of(path: str) -> str:
    """The folder that holds a file."""
    return posixpath.dirname(path) or "/"


def parents(path: str) -> list[str]:
    """The folders above a normalised path, outermost first, without the root."""
    names = path.split("/")[1:-1]
    return ["/" + "/".join(names[: i + 1]) for i in range(len(names))]


def check_instance(instance: str) -> str:
    """An instance's name, if it is one that can stand in a URL and as a folder's name."""
    if not _INSTANCE.fullmatch(instance):
        raise _invalid(
            f"{instance!r} is no instance name: give 1 to 63 letters, digits, '-', '.' or '_', with no '-' or '.' at "
            "the beginning and no '-' at the end"
        )
    return instance


def check_mode(mode: int) -> int:
    """Permission bits. Set-id and sticky bits are refused: SFTP servers answer OK to 04755 and set 0755 (seen)."""
    if not 0 <= mode <= MODE_MAX:
        raise PermanentError(
            Reason.UNSUPPORTED_MODE,
            f"mode {mode:#o} cannot be set reliably: use 0 to 0777, and set special bits inside",
        )
    return mode


def temp_path(path: str, task_id: str, attempt: int, try_number: int) -> str:
    """The temp of one try, beside its destination, so that a rename stays on one file system.

    Derived from the attempt alone, so that whoever cleans up after a lost worker can name it. Ids that are long or
    strange are hashed: the name never exceeds NAME_MAX.
    """
    if not 1 <= try_number <= MAX_TRIES_PER_ATTEMPT:
        raise ValueError(f"try {try_number} is not in 1..{MAX_TRIES_PER_ATTEMPT}")
    plain = task_id if _PLAIN_ID.fullmatch(task_id) else hashlib.sha256(task_id.encode()).hexdigest()[:32]
    temp = posixpath.join(posixpath.dirname(path), f".longshore-{plain}-{attempt}-{try_number}.tmp")
    if _size(temp) >= PATH_MAX:
        raise PermanentError(
            Reason.NAME_TOO_LONG, f"the path leaves no room for a temp file beside it in {PATH_MAX - 1} bytes"
        )
    return temp


def temps_of(path: str, task_id: str, attempt: int) -> tuple[str, ...]:
    """Every temp that an attempt can have made."""
    return tuple(temp_path(path, task_id, attempt, n) for n in range(1, MAX_TRIES_PER_ATTEMPT + 1))


def is_temp(path: str) -> bool:
    """Whether a path can be one of ours. Nothing else is ever removed for somebody else."""
    return bool(_TEMP.fullmatch(posixpath.basename(path)))


def _size(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise _invalid(f"the path {text!r} cannot be written in UTF-8") from error


def _invalid(message: str) -> PermanentError:
    return PermanentError(Reason.INVALID_ARGUMENT, message)
