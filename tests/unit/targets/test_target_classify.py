"""From what a target said to what the task should do."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from pathlib import Path

import pytest

from longshore.worker.errors import AttemptError, PermanentError, Reason, TransientError
from longshore.worker.targets.classify import TABLE, Row, from_errno, from_exception, from_http, from_sftp
from longshore.worker.targets.lxd.target import LxdTarget
from longshore.worker.targets.transport import DaemonEndpoint


@pytest.mark.parametrize(
    ("number", "kind", "reason"),
    [
        (errno.ENOSPC, PermanentError, "NO_SPACE"),
        (errno.EDQUOT, PermanentError, "NO_SPACE"),
        (errno.EROFS, PermanentError, "READ_ONLY"),
        (errno.EISDIR, PermanentError, "IS_A_DIRECTORY"),
        (errno.ENOTDIR, PermanentError, "NOT_A_DIRECTORY"),
        (errno.ENAMETOOLONG, PermanentError, "NAME_TOO_LONG"),
        (errno.ELOOP, PermanentError, "SYMLINK_LOOP"),
        (errno.EEXIST, PermanentError, "ALREADY_EXISTS"),
        (errno.EACCES, PermanentError, "PERMISSION_DENIED"),
        (errno.EPERM, PermanentError, "PERMISSION_DENIED"),
        (errno.ENOENT, PermanentError, "PARENT_MISSING"),
        (errno.EIO, TransientError, "IO_ERROR"),
        (errno.EBUSY, TransientError, "TARGET_BUSY"),
        (errno.EMFILE, TransientError, "TARGET_BUSY"),
        (errno.ECONNREFUSED, TransientError, "TARGET_UNREACHABLE"),
        (errno.ETIMEDOUT, TransientError, "TARGET_TIMEOUT"),
        (errno.EXDEV, TransientError, "TARGET_ERROR"),
        (None, TransientError, "TARGET_ERROR"),
    ],
)
def test_kernel_errors(number: int | None, kind: type[AttemptError], reason: str) -> None:
    error = from_errno(number, "writing /f")
    assert (type(error), error.reason) == (kind, reason)
    assert error.message.startswith("writing /f: ")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.reason)
def test_a_daemons_error_text_is_classified_like_its_errno(row: Row) -> None:
    """Go spells errors as the C library does, in lower case."""
    from longshore.worker.targets.classify import Row

    assert isinstance(row, Row)
    for number in row.errnos:
        said = from_sftp(4, f"write /some/file: {os.strerror(number).lower()}", "writing /f")
        assert said.reason == from_errno(number, "writing /f").reason
        http = from_http(500, f"open /x: {os.strerror(number).lower()}", "writing /f")
        assert http.reason == said.reason


def test_words_in_a_path_do_not_classify_an_error() -> None:
    text = "open /no space left on device/read-only file system: too many open files"
    assert from_sftp(4, text, "opening").reason == "TARGET_BUSY"


@pytest.mark.parametrize(
    ("code", "text", "kind", "reason"),
    [
        (2, "open /a/b: no such file or directory", PermanentError, "PARENT_MISSING"),
        (3, "open /proc/x: permission denied", PermanentError, "PERMISSION_DENIED"),
        (4, "something new", TransientError, "TARGET_ERROR"),
        (4, "", TransientError, "TARGET_ERROR"),
        (7, "", TransientError, "TARGET_UNREACHABLE"),
        (8, "operation unsupported", PermanentError, "NO_SFTP"),
    ],
)
def test_sftp_statuses(code: int, text: str, kind: type[AttemptError], reason: str) -> None:
    error = from_sftp(code, text, "opening /a/b")
    assert (type(error), error.reason) == (kind, reason)


def test_a_missing_temp_is_another_matter_than_a_missing_folder() -> None:
    error = from_sftp(2, "rename: no such file or directory", "committing", missing=Reason.TEMP_MISSING)
    assert isinstance(error, TransientError)
    assert error.reason == "TEMP_MISSING"


@pytest.mark.parametrize(
    ("status", "text", "kind", "reason"),
    [
        (403, "not authorized", PermanentError, "TARGET_FORBIDDEN"),
        (404, "Instance not found", PermanentError, "INSTANCE_NOT_FOUND"),
        (400, "Invalid path", PermanentError, "TARGET_ERROR"),
        (409, "conflict", TransientError, "TARGET_ERROR"),
        (500, "database is locked", TransientError, "TARGET_ERROR"),
        (503, 'Instance is busy running a "stop" operation', TransientError, "INSTANCE_BUSY"),
        (400, "VM agent isn't currently running", TransientError, "INSTANCE_BUSY"),
    ],
)
def test_http_answers(status: int, text: str, kind: type[AttemptError], reason: str) -> None:
    error = from_http(status, text, "asking")
    assert (type(error), error.reason) == (kind, reason)


def test_exceptions_of_sockets_and_tls() -> None:
    assert from_exception(TimeoutError("x"), "asking").reason == "TARGET_TIMEOUT"
    assert from_exception(ConnectionResetError(errno.ECONNRESET, "x"), "asking").reason == "TARGET_UNREACHABLE"
    assert from_exception(EOFError("x"), "asking").reason == "TARGET_UNREACHABLE"
    assert from_exception(ssl.SSLError("x"), "asking").reason == "TARGET_UNREACHABLE"
    untrusted = from_exception(ssl.SSLCertVerificationError("x"), "asking")
    assert (type(untrusted), untrusted.reason) == (PermanentError, "TARGET_FORBIDDEN")
    already = PermanentError("MINE", "x")
    assert from_exception(already, "asking") is already


def test_a_daemon_without_its_socket_is_away_and_not_wrong(tmp_path: Path) -> None:
    # Each restart of a daemon has such a moment; a task that meets it must not fail for good.
    target = LxdTarget("default", DaemonEndpoint(socket_path=str(tmp_path / "unix.socket")))
    try:
        with pytest.raises(TransientError) as raised, target.open("", "web"):
            pass
        assert raised.value.reason == Reason.TARGET_UNREACHABLE
        with pytest.raises(TransientError) as raised:
            target.probe("", "web")
        assert raised.value.reason == Reason.TARGET_UNREACHABLE
    finally:
        target.close()


def test_a_socket_that_is_not_open_to_us_yet_is_worth_a_retry(tmp_path: Path) -> None:
    # A daemon that starts makes its socket first, and opens it to its group afterwards.
    path = tmp_path / "unix.socket"
    target = LxdTarget("default", DaemonEndpoint(socket_path=str(path)))
    user = os.geteuid()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0)
        if user == 0:
            os.seteuid(65534)  # root may everything
        try:
            with pytest.raises(TransientError) as raised, target.open("", "web"):
                pass
        finally:
            os.seteuid(user)
            target.close()
    assert raised.value.reason == Reason.PERMISSION_DENIED
