"""This module delivers over SFTP: the steps of a push, with errors already classified."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from longshore.contract.limits import LARGEST_OWNER
from longshore.worker.errors import PermanentError, Reason, TransientError
from longshore.worker.targets import classify
from longshore.worker.targets.base import Attributes, CommitLost, FileKind, FileStat, Source, Written, no_check
from longshore.worker.targets.paths import check_mode, folder_of, parents
from longshore.worker.targets.sftp.session import HARDLINK, POSIX_RENAME, SftpSession, SftpStatus
from longshore.worker.targets.sftp.wire import NO_SUCH_FILE, ProtocolError

_STREAM_ERRORS: Final = (OSError, EOFError, ProtocolError)


@contextmanager
def classified(session: SftpSession, what: str, *, missing: Reason = Reason.PARENT_MISSING) -> Iterator[None]:
    """Turn what a session raises into an `AttemptError`."""
    try:
        yield
    except SftpStatus as error:
        raise classify.from_sftp(error.code, error.text, what, missing=missing) from error
    except ProtocolError as error:
        session.close()
        raise TransientError(Reason.TARGET_PROTOCOL, f"{what}: the daemon broke the SFTP protocol: {error}") from error
    except (OSError, EOFError) as error:
        raise classify.from_exception(error, what) from error


class SftpTemp:
    """A temp file behind an open handle."""

    def __init__(self, session: SftpSession, path: str, handle: bytes) -> None:
        self._session = session
        self._handle = handle
        self._open = True
        self.path: Final = path

    def write(self, source: Source, *, advance: Callable[[int], None]) -> Written:
        with _foreign_errors(), classified(self._session, f"writing a file in {folder_of(self.path)}"):
            return self._session.write(self._handle, _Guarded(source), advance=_guarded(advance))

    def finish(self) -> FileStat:
        what = f"writing a file in {folder_of(self.path)}"
        with classified(self._session, what, missing=Reason.TEMP_MISSING):
            self._open = False
            self._session.close_handle(self._handle)
            found = self._session.stat(self.path, follow=False)
        if found is None:
            raise TransientError(Reason.TEMP_MISSING, f"{self.path} was removed by somebody else while it was written")
        return found

    def set_attributes(self, attributes: Attributes) -> None:
        """Set the owner first and then the mode, because changing the owner clears mode bits."""
        what = f"setting owner and mode of a file in {folder_of(self.path)}"
        if attributes.uid is not None or attributes.gid is not None:
            uid, gid = attributes.uid, attributes.gid
            if uid is None or gid is None:
                raise ValueError("SFTP sets both ids or none")
            if max(uid, gid) > LARGEST_OWNER:
                raise PermanentError(Reason.INVALID_ARGUMENT, f"{what}: an id is larger than {LARGEST_OWNER}")
            with classified(self._session, what):
                self._session.set_handle_owner(self._handle, uid, gid)
        if attributes.mode is not None:
            check_mode(attributes.mode)
            with classified(self._session, what):
                self._session.set_handle_mode(self._handle, attributes.mode)

    def abandon(self) -> None:
        """Let go of the file on the way out of an error. An open handle would keep a removed file's space taken."""
        if self._open:
            self._open = False
            self._session.abandon_handle(self._handle)


class SftpDelivery:
    """Drives one session for one push. The session goes back to its pool on `close`, unless it is broken."""

    method: Final = "SFTP"
    default_owner: Final = (0, 0)

    def __init__(
        self, session: SftpSession, *, check: Callable[[], None], give_back: Callable[[SftpSession], None]
    ) -> None:
        self._session = session
        self._check = check
        self._give_back = give_back
        self._temps: list[SftpTemp] = []
        self._perhaps_made: set[str] = set()
        """Temps whose making was answered well, or not at all."""

    def stat(self, path: str, *, follow: bool = True) -> FileStat | None:
        with classified(self._session, f"looking at {path}"):
            return self._session.stat(path, follow=follow)

    def make_parents(self, path: str, attributes: Attributes) -> None:
        uid, gid = (
            default if asked is None else asked
            for asked, default in zip((attributes.uid, attributes.gid), self.default_owner, strict=True)
        )
        mode = 0o755 if attributes.mode is None else check_mode(attributes.mode)
        for folder in reversed(self._missing_parents(path)):
            with classified(self._session, f"creating the folder {folder}"):
                try:
                    self._session.mkdir(folder)
                except SftpStatus:
                    # Somebody else may have been faster; if there is no folder, the error stands.
                    found = self._session.stat(folder, follow=True)
                    if found is None or found.kind is not FileKind.DIRECTORY:
                        raise
                    continue  # it is theirs
                try:
                    if (uid, gid) != (0, 0):
                        self._session.set_owner(folder, uid, gid)
                    self._session.set_mode(folder, mode)
                except SftpStatus:
                    # The next push would find it there, and leave it as it is.
                    with suppress(SftpStatus):
                        self._session.rmdir(folder)
                    raise

    def _missing_parents(self, path: str) -> list[str]:
        """Innermost first."""
        missing: list[str] = []
        for folder in reversed(parents(path)):
            found = self.stat(folder)
            if found is not None:
                if found.kind is not FileKind.DIRECTORY:
                    raise PermanentError(
                        Reason.NOT_A_DIRECTORY, f"{folder} is not a folder, so nothing can be put below it"
                    )
                break
            missing.append(folder)
        return missing

    def create_temp(self, path: str, attributes: Attributes) -> SftpTemp:
        with classified(self._session, f"creating a file in {folder_of(path)}"):
            self._perhaps_made.add(path)
            try:
                temp = SftpTemp(self._session, path, self._created(path))
            except SftpStatus:
                self._perhaps_made.discard(path)
                raise
        self._temps.append(temp)
        temp.set_attributes(attributes)
        return temp

    def _created(self, path: str) -> bytes:
        """Create a file and return its handle. Raises `PermanentError` where the folder is there and takes no files."""
        try:
            return self._session.create(path)
        except SftpStatus as error:
            if error.code != NO_SUCH_FILE or not self._is_folder(folder_of(path)):
                raise
        try:
            return self._session.create(path)  # it may have been made in this moment
        except SftpStatus as error:
            if error.code != NO_SUCH_FILE or not self._is_folder(folder_of(path)):
                raise
            self._perhaps_made.discard(path)
            raise classify.no_new_files(folder_of(path)) from error

    def _is_folder(self, path: str) -> bool:
        found = self._session.stat(path, follow=True)
        return found is not None and found.kind is FileKind.DIRECTORY

    def read_back(self, path: str, *, advance: Callable[[int], None]) -> Written:
        with _foreign_errors(), classified(self._session, f"reading {path}", missing=Reason.TEMP_MISSING):
            return self._session.read(path, advance=_guarded(advance))

    def commit(self, temp: str, path: str, *, replace: bool) -> None:
        extension = POSIX_RENAME if replace else HARDLINK
        if extension not in self._session.extensions:
            raise PermanentError(Reason.NO_SFTP, f"the daemon's SFTP server has no {extension}: upgrade the daemon")
        act = self._session.posix_rename if replace else self._session.hardlink
        self._session.set_check(no_check)
        try:
            with classified(self._session, f"putting {path} in place", missing=Reason.TEMP_MISSING):
                try:
                    act(temp, path)
                except _STREAM_ERRORS as error:
                    # It may have been sent in part only, but nobody can prove that from here.
                    self._session.close()
                    raise CommitLost(f"the connection was lost while putting {path} in place: {error}") from error
                except SftpStatus as error:
                    raise self._refused(error, path) from error
        finally:
            self._session.set_check(self._check)

    def _refused(self, error: SftpStatus, path: str) -> Exception:
        # rename(2) onto a folder is answered with EEXIST by Go, the same word as for a taken name.
        found = self._session.stat(path, follow=False)
        if found is not None and found.kind is FileKind.DIRECTORY:
            return PermanentError(Reason.IS_A_DIRECTORY, f"{path} is a folder: name the file in it")
        return classify.mount_point(path) if error.text.endswith(os.strerror(errno.EBUSY).lower()) else error

    def overwrite(self, temp: str, path: str, asked: Attributes) -> None:
        session = self._session
        session.set_check(no_check)
        source = destination = b""
        try:
            with classified(session, f"opening {path}", missing=Reason.TEMP_MISSING):
                source = session.open_read(temp)
                try:
                    destination = session.open_write(path)
                except _STREAM_ERRORS as error:
                    # That request empties the file, and whether it was carried out nobody knows.
                    session.close()
                    raise CommitLost(f"the connection was lost while opening {path}: {error}") from error
            try:
                with classified(session, f"writing into {path}"):
                    session.write(destination, _Remote(session, source, temp), advance=_ignore)
                    if asked.uid is not None or asked.gid is not None:
                        # SFTP sets both ids or none.
                        now = session.stat(path, follow=True)
                        uid, gid = (now.uid, now.gid) if now is not None else self.default_owner
                        uid, gid = (uid if asked.uid is None else asked.uid), (gid if asked.gid is None else asked.gid)
                        session.set_handle_owner(destination, uid, gid)
                    if asked.mode is not None:
                        session.set_handle_mode(destination, check_mode(asked.mode))
                    session.take_answers()
            except TransientError as error:
                raise CommitLost(error.message) from error
        finally:
            for handle in filter(None, (source, destination)):
                session.abandon_handle(handle)
            session.set_check(self._check)

    def discard(self, temp: str) -> bool:
        return temp not in self._perhaps_made or self.remove(temp)

    def remove(self, path: str) -> bool:
        self._session.set_check(no_check)
        try:
            self._let_go()
            with classified(self._session, f"removing {path}"):
                return self._session.remove(path)
        finally:
            self._session.set_check(self._check)

    def close(self) -> None:
        self._session.set_check(no_check)
        self._let_go()
        self._give_back(self._session)

    def _let_go(self) -> None:
        """Leave no handle open and no answer to come."""
        for temp in self._temps:
            temp.abandon()
        self._session.drain()


class _Foreign(Exception):
    """Carries an error that is not the session's through code that classifies the session's own."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error: Final = error


@contextmanager
def _foreign_errors() -> Iterator[None]:
    try:
        yield
    except _Foreign as foreign:
        raise foreign.error from foreign.error.__cause__


class _Remote:
    """A file of the instance as a source."""

    def __init__(self, session: SftpSession, handle: bytes, path: str) -> None:
        self._session = session
        self._handle = handle
        self._path = path
        self._offset = 0

    def read(self, size: int, /) -> bytes:
        if self._session.stat(self._path, follow=False) is None:
            raise CommitLost(f"{self._path} is gone: another worker settled the delivery while it was being written")
        piece = self._session.read_at(self._handle, self._offset, size)
        self._offset += len(piece)
        return piece


def _ignore(_: int) -> None:
    """Ignore the progress of a source that is read for its content alone."""


class _Guarded:
    """A source whose own OSErrors are not taken for the target's: they are about the payload."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def read(self, size: int, /) -> bytes:
        try:
            return self._source.read(size)
        except (OSError, EOFError) as error:
            raise _Foreign(
                TransientError(
                    Reason.PAYLOAD_UNAVAILABLE, f"reading the payload failed: {type(error).__name__}: {error}"
                )
            ) from error


def _guarded(advance: Callable[[int], None]) -> Callable[[int], None]:
    def call(done: int) -> None:
        try:
            advance(done)
        except (OSError, EOFError) as error:
            raise _Foreign(error) from error

    return call
