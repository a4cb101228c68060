"""This target is a folder of instance roots, such as systemd-nspawn's /var/lib/machines.

The steps are those of SFTP, and more: files and folders are synced to disk before and after the rename, so that a
delivery survives a power cut. Ids are the host's. An instance is a folder right below; it is never "stopped".
"""

from __future__ import annotations

import errno
import os
import socket
import stat as stat_bits
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace as changed
from pathlib import Path
from typing import Final

import google_crc32c

from longshore.contract.limits import LARGEST_MODE
from longshore.worker.errors import PermanentError, Reason, TransientError
from longshore.worker.targets import classify
from longshore.worker.targets.base import (
    CHUNK,
    Attributes,
    CommitLost,
    Delivery,
    FileKind,
    FileStat,
    InPlaceDelivery,
    InstanceChange,
    InstanceState,
    Source,
    Watch,
    Written,
    chunks,
    no_check,
)
from longshore.worker.targets.directory.rooted import RootedTree, sync_folder
from longshore.worker.targets.paths import check_instance, check_mode, folder_of

_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_POLL_S: Final = 2.0


@contextmanager
def _classified(what: str, *, missing: Reason = Reason.PARENT_MISSING) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise classify.from_exception(error, what, missing=missing) from error


class DirectoryTemp:
    """A temp file behind an open descriptor."""

    def __init__(self, path: str, descriptor: int, check: Callable[[], None]) -> None:
        self.path: Final = path
        self._descriptor = descriptor
        self._check = check

    def write(self, source: Source, *, advance: Callable[[int], None]) -> Written:
        size = crc = 0
        for chunk in _payload(source):
            self._check()
            crc = google_crc32c.extend(crc, chunk)
            left = memoryview(chunk)
            with _classified(f"writing a file in {folder_of(self.path)}"):
                while left:
                    left = left[os.write(self._descriptor, left) :]
            size += len(chunk)
            advance(size)
        return Written(size, crc)

    def set_attributes(self, attributes: Attributes) -> None:
        """Give the temp its owner and mode; see `_set_attributes`."""
        with _classified(f"setting owner and mode of a file in {folder_of(self.path)}"):
            _set_attributes(self._descriptor, attributes)

    def finish(self) -> FileStat:
        with _classified(f"syncing a file in {folder_of(self.path)}"):
            try:
                os.fsync(self._descriptor)
                return _file_stat(os.fstat(self._descriptor))
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Close without syncing. A second call is harmless."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class DirectoryDelivery:
    """Pushes into one instance root."""

    method: Final = "DIRECTORY"

    def __init__(self, root: int, *, check: Callable[[], None]) -> None:
        self._tree = RootedTree(root)
        self._check = check
        self._temps: list[DirectoryTemp] = []
        self._made: dict[str, int] = {}
        """This dict maps the path of each temp to a descriptor of the folder in which the temp was made. The path may
        lead elsewhere by now: of 1,500 pushes below folders that were exchanged meanwhile, 767 left their temp or
        looked for it in vain."""
        # A worker that is not root cannot give files away, and should not have to.
        self.default_owner: Final = (os.geteuid(), os.getegid())

    def stat(self, path: str, *, follow: bool = True) -> FileStat | None:
        with _classified(f"looking at {path}"):
            try:
                if follow:
                    with self._tree.resolved(path) as found:
                        return _file_stat(os.fstat(found))
                with self._tree.parent(path) as (folder, name):
                    return _file_stat(os.stat(name, dir_fd=folder, follow_symlinks=False))
            except (FileNotFoundError, NotADirectoryError):
                return None

    def make_parents(self, path: str, attributes: Attributes) -> None:
        wanted = changed(attributes, mode=0o755 if attributes.mode is None else attributes.mode)
        with _classified(f"creating the folders above {path}"):
            # Of mkdir's own mode the umask takes bits away.
            self._tree.make_parents(path, prepare=lambda made: _set_attributes(made, wanted))

    def create_temp(self, path: str, attributes: Attributes) -> DirectoryTemp:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with _classified(f"creating a file in {folder_of(path)}"), self._tree.parent(path) as (folder, name):
            made_in = os.dup(folder)  # first, and not once the temp is there and no descriptor may be left for this one
            try:
                descriptor = os.open(name, flags, 0o600, dir_fd=folder)
            except BaseException as error:
                os.close(made_in)
                if isinstance(error, FileNotFoundError) and os.fstat(folder).st_nlink:
                    raise classify.no_new_files(folder_of(path)) from None
                raise  # where the folder was not found, it was removed in this moment
            self._made[path] = made_in
            temp = DirectoryTemp(path, descriptor, self._check)
            self._temps.append(temp)
        temp.set_attributes(attributes)
        return temp

    def read_back(self, path: str, *, advance: Callable[[int], None]) -> Written:
        size = crc = 0
        with _classified(f"reading {path}", missing=Reason.TEMP_MISSING):
            descriptor = self._open_for_reading(path)
            try:
                while piece := os.read(descriptor, CHUNK):
                    self._check()
                    crc = google_crc32c.extend(crc, piece)
                    size += len(piece)
                    advance(size)
            finally:
                os.close(descriptor)
        return Written(size, crc)

    def _open_for_reading(self, path: str) -> int:
        # O_NONBLOCK: should somebody have put a fifo there, do not wait for its writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        if path in self._made:
            return os.open(path.rpartition("/")[2], flags, dir_fd=self._made[path])
        with self._tree.parent(path) as (folder, name):
            return os.open(name, flags, dir_fd=folder)

    def commit(self, temp: str, path: str, *, replace: bool) -> None:
        temp_name = temp.rpartition("/")[2]
        what = f"putting {path} in place"
        with _classified(what, missing=Reason.TEMP_MISSING), self._tree.parent(path) as (folder, name):
            try:
                if replace:
                    os.rename(temp_name, name, src_dir_fd=folder, dst_dir_fd=folder)
                else:
                    os.link(temp_name, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    raise classify.mount_point(path) from error
                raise
            try:
                sync_folder(folder)
            except OSError as error:
                # It has happened, but may not outlive a power failure: neither done nor undone.
                raise CommitLost(f"{path} is in place, but its folder could not be synced: {error}") from error

    def overwrite(self, temp: str, path: str, asked: Attributes) -> None:
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with ExitStack() as opened:
            with _classified(f"opening {path}", missing=Reason.TEMP_MISSING):
                source = self._open_for_reading(temp)
                opened.callback(os.close, source)
                with self._tree.parent(path) as (folder, name):
                    destination = os.open(name, flags, dir_fd=folder)
                opened.callback(os.close, destination)
                if not stat_bits.S_ISREG(os.fstat(destination).st_mode):
                    raise PermanentError(Reason.NOT_A_FILE, f"{path} is no ordinary file any more")
            try:
                with _classified(f"writing into {path}"):
                    os.ftruncate(destination, 0)
                    while piece := os.read(source, CHUNK):
                        if not os.fstat(source).st_nlink:
                            raise CommitLost(f"another worker settled the delivery while {path} was being written")
                        left = memoryview(piece)
                        while left:
                            left = left[os.write(destination, left) :]
                    _set_attributes(destination, asked)
                    os.fsync(destination)
            except TransientError as error:
                raise CommitLost(error.message) from error

    def discard(self, temp: str) -> bool:
        folder = self._made.get(temp)
        if folder is None:
            return True
        with _classified(f"removing a temp from {folder_of(temp)}"):
            try:
                os.unlink(temp.rpartition("/")[2], dir_fd=folder)
            except FileNotFoundError:
                return False
        return True

    def remove(self, path: str) -> bool:
        with _classified(f"removing {path}"):
            try:
                with self._tree.parent(path) as (folder, name):
                    os.unlink(name, dir_fd=folder)
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def close(self) -> None:
        for temp in self._temps:
            temp.abandon()
        while self._made:
            os.close(self._made.popitem()[1])


class DirectoryTarget:
    """Instance roots below one folder."""

    default_project: Final = ""

    def __init__(self, name: str, path: str, *, poll_s: float = _POLL_S) -> None:
        self.name: Final = name
        self._path = path
        self._poll_s = poll_s

    def identity(self) -> str:
        """Return machine, file system and folder: the same for every worker on this machine, and over restarts."""
        with self._base() as base:
            what = os.fstat(base)
            file_system = os.fstatvfs(base).f_fsid
        return f"directory:{_machine()}:{file_system:x}:{what.st_ino}"

    def probe(self, project: str, instance: str) -> InstanceState:
        self._check_project(project)
        with self._base() as base:
            try:
                found = os.stat(check_instance(instance), dir_fd=base, follow_symlinks=False)
            except FileNotFoundError:
                return InstanceState.ABSENT
        return InstanceState.RUNNING if stat_bits.S_ISDIR(found.st_mode) else InstanceState.ABSENT

    def instances(self, project: str) -> list[str]:
        self._check_project(project)
        return sorted(self._list())

    @contextmanager
    def open(
        self,
        project: str,
        instance: str,
        *,
        check: Callable[[], None] = no_check,
        hurry: bool = False,  # noqa: ARG002 - a local file system has no time-outs
    ) -> Iterator[Delivery]:
        root = self._open_root(project, instance)
        delivery = DirectoryDelivery(root, check=check)
        try:
            yield delivery
        finally:
            delivery.close()
            os.close(root)

    def open_in_place(
        self,
        project: str,  # noqa: ARG002
        instance: str,  # noqa: ARG002
        *,
        check: Callable[[], None] = no_check,  # noqa: ARG002
    ) -> AbstractContextManager[InPlaceDelivery] | None:
        return None

    def watch(self, callback: Callable[[InstanceChange], None]) -> Watch:
        return _DirectoryWatch(self._list, callback, poll_s=self._poll_s)

    def close_idle(self) -> None:
        """Nothing is kept open."""

    def close(self) -> None:
        """Nothing is kept open."""

    def _open_root(self, project: str, instance: str) -> int:
        self._check_project(project)
        with self._base() as base:
            try:
                return os.open(check_instance(instance), _FOLDER | os.O_NOFOLLOW, dir_fd=base)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise PermanentError(
                    Reason.INSTANCE_NOT_FOUND, f"{self._path} has no folder {instance}: check instance and target"
                ) from error

    def _list(self) -> set[str]:
        with self._base() as base:
            listing = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=base)
            try:
                with os.scandir(listing) as entries:
                    return {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
            finally:
                os.close(listing)

    @contextmanager
    def _base(self) -> Iterator[int]:
        # Opened anew each time: the folder may be mounted after the worker starts.
        try:
            base = os.open(self._path, _FOLDER)
        except OSError as error:
            raise TransientError(
                Reason.TARGET_UNREACHABLE,
                f"{self._path} cannot be opened: {os.strerror(error.errno or 0)}: is it mounted?",
            ) from error
        try:
            yield base
        except OSError as error:
            raise classify.from_exception(error, f"looking into {self._path}") from error
        finally:
            os.close(base)

    @staticmethod
    def _check_project(project: str) -> None:
        if project not in ("", "default"):
            raise PermanentError(
                Reason.UNSUPPORTED_PROJECT,
                f"a directory has no projects: leave {project!r} out, or name another target",
            )


class _DirectoryWatch:
    """Lists the folder every few seconds, and reports everything each time, which is as cheap as a comparison would
    be."""

    def __init__(
        self, listing: Callable[[], set[str]], callback: Callable[[InstanceChange], None], *, poll_s: float
    ) -> None:
        self._listing = listing
        self._callback = callback
        self._poll_s = poll_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="longshore-directory-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        known: set[str] = set()
        while not self._stop.is_set():
            try:
                now = self._listing()
            except (TransientError, PermanentError):
                now = known  # Not mounted now, say. Its return is noticed by a later round.
            for name in known - now:
                self._callback(InstanceChange("", name, InstanceState.ABSENT))
            for name in now:
                self._callback(InstanceChange("", name, InstanceState.RUNNING))
            known = now
            self._stop.wait(self._poll_s)


def _set_attributes(descriptor: int, attributes: Attributes) -> None:
    """Owner first, then mode: changing the owner clears mode bits."""
    if attributes.uid is not None or attributes.gid is not None:
        uid = -1 if attributes.uid is None else attributes.uid
        gid = -1 if attributes.gid is None else attributes.gid
        try:
            os.fchown(descriptor, uid, gid)
        except OverflowError as error:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from error
    if attributes.mode is not None:
        os.fchmod(descriptor, check_mode(attributes.mode))


def _payload(source: Source) -> Iterator[bytes]:
    """Yield the payload's chunks. Their errors are about the payload and not about the target."""
    try:
        yield from chunks(source)
    except (OSError, EOFError) as error:
        raise TransientError(
            Reason.PAYLOAD_UNAVAILABLE, f"reading the payload failed: {type(error).__name__}: {error}"
        ) from error


def _file_stat(found: os.stat_result) -> FileStat:
    if stat_bits.S_ISREG(found.st_mode):
        kind = FileKind.FILE
    elif stat_bits.S_ISDIR(found.st_mode):
        kind = FileKind.DIRECTORY
    elif stat_bits.S_ISLNK(found.st_mode):
        kind = FileKind.SYMLINK
    else:
        kind = FileKind.OTHER
    return FileStat(kind, found.st_size, found.st_mode & LARGEST_MODE, found.st_uid, found.st_gid)


def _machine() -> str:
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip()[:32] or socket.gethostname()
    except OSError:
        return socket.gethostname()


__all__ = ["DirectoryTarget"]
