"""This module alone decides what a target's error means for the task.

Kernels speak in errno, Go daemons in the kernel's words for it, pylxd and requests in exceptions. One table holds all:
a row is a reason, whether waiting may help, the errnos, and the words that a daemon uses for the same thing.
"""

from __future__ import annotations

import errno
import os
import ssl
from dataclasses import dataclass
from enum import Enum
from typing import Final

from longshore.worker.errors import AttemptError, PermanentError, Reason, TransientError


class FailureKind(Enum):
    """Whether the same thing may work later by itself."""

    TRANSIENT = "transient"
    PERMANENT = "permanent"


@dataclass(frozen=True, slots=True)
class Row:
    """One cause."""

    reason: Reason
    failure_kind: FailureKind
    remedy: str
    errnos: frozenset[int] = frozenset()
    words: tuple[str, ...] = ()


def _row(
    reason: Reason, failure_kind: FailureKind, remedy: str, errnos: tuple[int, ...] = (), words: tuple[str, ...] = ()
) -> Row:
    spoken = tuple(os.strerror(number).lower() for number in errnos)
    return Row(reason, failure_kind, remedy, frozenset(errnos), spoken + words)


_P: Final = FailureKind.PERMANENT
_T: Final = FailureKind.TRANSIENT

TABLE: Final[tuple[Row, ...]] = (
    _row(
        Reason.NO_SPACE,
        _P,
        "free space or raise the quota in the instance, then retry the task",
        (errno.ENOSPC, errno.EDQUOT),
        ("quota exceeded",),
    ),
    _row(Reason.READ_ONLY, _P, "the file system is mounted read-only there", (errno.EROFS,)),
    _row(Reason.NAME_TOO_LONG, _P, "shorten the path", (errno.ENAMETOOLONG,)),
    _row(Reason.IS_A_DIRECTORY, _P, "name the file, not the folder", (errno.EISDIR,)),
    _row(Reason.NOT_A_DIRECTORY, _P, "a part of the path is a file", (errno.ENOTDIR,)),
    _row(Reason.SYMLINK_LOOP, _P, "symlinks in the path lead in a circle", (errno.ELOOP,)),
    _row(Reason.ALREADY_EXISTS, _P, "the name is taken", (errno.EEXIST, errno.ENOTEMPTY)),
    _row(
        Reason.PERMISSION_DENIED,
        _P,
        "the target does not allow it: look at the folder's owner, immutable flags, and kernel file systems",
        (errno.EACCES, errno.EPERM),
    ),
    _row(
        Reason.INVALID_ARGUMENT,
        _P,
        "the target refuses the value: ids must be mapped in the instance",
        (errno.EINVAL, errno.EOVERFLOW),
    ),
    _row(Reason.NO_SPACE, _P, "the file is larger than the file system allows", (errno.EFBIG,)),
    _row(
        Reason.TARGET_TIMEOUT,
        _T,
        "the target is slow or hangs: look at its daemon",
        (errno.ETIMEDOUT,),
        ("timed out", "timeout", "deadline exceeded"),
    ),
    _row(
        Reason.TARGET_BUSY,
        _T,
        "the target has no resources to spare now",
        (errno.EAGAIN, errno.EBUSY, errno.ETXTBSY, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR),
    ),
    _row(Reason.IO_ERROR, _T, "look at the target's disk and kernel log", (errno.EIO, errno.ESTALE, errno.ENXIO)),
    _row(
        Reason.TARGET_UNREACHABLE,
        _T,
        "the target's daemon does not answer: is it running, and is the address right?",
        (
            errno.ECONNREFUSED,
            errno.ECONNRESET,
            errno.ECONNABORTED,
            errno.EPIPE,
            errno.ENETUNREACH,
            errno.EHOSTUNREACH,
            errno.ENOTCONN,
        ),
        ("broken connection",),
    ),
    _row(
        Reason.INSTANCE_BUSY,
        _T,
        "the instance is being started, stopped, moved or deleted",
        (),
        ("is busy running", "agent isn't currently running", "agent is not running"),
    ),
)

_SFTP_CODES: Final = {2: errno.ENOENT, 3: errno.EACCES, 6: errno.ENOTCONN, 7: errno.ECONNRESET}
"""Statuses of SFTP v3 that say more than FAILURE (4), whose cause is only in the words."""


def _make(row: Row, what: str, said: str) -> AttemptError:
    kind = PermanentError if row.failure_kind is FailureKind.PERMANENT else TransientError
    return kind(row.reason, f"{what}: {said}: {row.remedy}" if said else f"{what}: {row.remedy}")


def _by_words(text: str) -> Row | None:
    # The end of a Go error is its cause ("open /a: is a directory"); a path in front may hold anything.
    cause = text.lower().rsplit(": ", 1)[-1]
    for row in TABLE:
        if any(word in cause for word in row.words):
            return row
    return None


def _missing(what: str, said: str, reason: Reason) -> AttemptError:
    if reason is Reason.TEMP_MISSING:
        return TransientError(reason, f"{what}: {said}: somebody else removed the temp file or moved its folder")
    if reason is Reason.TARGET_UNREACHABLE:
        # A daemon removes its socket when it ends or starts: each restart has a moment without one.
        return TransientError(reason, f"{what}: {said}: is the daemon running, and is the address right?")
    return PermanentError(reason, f"{what}: {said}: create the folder, or ask for missing parents to be created")


def mount_point(path: str) -> PermanentError:
    """Make the error of a rename that was answered with EBUSY: a file system is mounted at the destination."""
    return PermanentError(
        Reason.MOUNT_POINT,
        f"{path} is a mount point and cannot be replaced: push with --in-place to write into the file that is mounted "
        "there, or push to the place where it comes from",
    )


def no_new_files(folder: str) -> PermanentError:
    """Make the error of a folder that takes no new files: it exists, and says of a file to be created in it that it
    does not exist, as folders of procfs do."""
    return PermanentError(
        Reason.NO_NEW_FILES,
        f"nothing can be created in {folder}: it belongs to a file system that takes no new files, such as /proc. "
        "Choose another place",
    )


def from_errno(number: int | None, what: str, *, missing: Reason = Reason.PARENT_MISSING) -> AttemptError:
    """Classify a kernel error. `missing` is what a missing name means to the caller."""
    said = os.strerror(number).lower() if number else "an unnamed system error"
    if number == errno.ENOENT:
        return _missing(what, said, missing)
    for row in TABLE:
        if number in row.errnos:
            return _make(row, what, said)
    return TransientError(Reason.TARGET_ERROR, f"{what}: {said}")


def from_sftp(code: int, text: str, what: str, *, missing: Reason = Reason.PARENT_MISSING) -> AttemptError:
    """Classify an SFTP status. An unknown failure is transient: the try limit bounds it."""
    if code in _SFTP_CODES:
        return from_errno(_SFTP_CODES[code], what, missing=missing)
    row = _by_words(text)
    if row is not None:
        return _make(row, what, text.rsplit(": ", 1)[-1])
    if code == 8:
        return PermanentError(
            Reason.NO_SFTP, f"{what}: the daemon's SFTP server does not know this operation: upgrade it"
        )
    return TransientError(Reason.TARGET_ERROR, f"{what}: {text or f'SFTP status {code}'}")


def from_http(status: int, text: str, what: str) -> AttemptError:
    """Classify a daemon's HTTP answer. A missing instance is the caller's to recognise (it knows what it asked for)."""
    if status in (401, 403):
        return PermanentError(
            Reason.TARGET_FORBIDDEN,
            f"{what}: {text or 'forbidden'}: add the worker's certificate to the daemon's "
            "trust store, for this project",
        )
    if status == 404:
        return PermanentError(
            Reason.INSTANCE_NOT_FOUND, f"{what}: {text or 'not found'}: check instance, project and target"
        )
    row = _by_words(text) or next((r for r in TABLE if any(w in text.lower() for w in r.words)), None)
    if row is not None:
        return _make(row, what, text)
    if 400 <= status < 500 and status not in (408, 409, 423, 429):
        return PermanentError(Reason.TARGET_ERROR, f"{what}: HTTP {status}: {text}")
    return TransientError(Reason.TARGET_ERROR, f"{what}: HTTP {status}: {text}")


def from_exception(error: BaseException, what: str, *, missing: Reason = Reason.PARENT_MISSING) -> AttemptError:
    """Classify what a socket, TLS or a file raised. An `AttemptError` is returned as it is."""
    if isinstance(error, AttemptError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return PermanentError(
            Reason.TARGET_FORBIDDEN,
            f"{what}: the daemon's certificate is not trusted ({getattr(error, 'verify_message', error)}): "
            "give its certificate as server_cert",
        )
    if isinstance(error, TimeoutError):
        return from_errno(errno.ETIMEDOUT, what)
    if isinstance(error, ssl.SSLError | EOFError):
        return TransientError(Reason.TARGET_UNREACHABLE, f"{what}: the connection broke: {error}")
    if isinstance(error, OSError):
        return from_errno(error.errno, what, missing=missing)
    return TransientError(Reason.TARGET_ERROR, f"{what}: {type(error).__name__}: {error}")
