"""Tests of file pushes share this module: an attempt's context that records, and places to push into."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import google_crc32c
import pytest

from longshore.worker.errors import AttemptStopped, PermanentError, StopReason
from longshore.worker.file_push.push import Push, Pushed, push_file
from longshore.worker.targets import Content, InstanceChange, Target
from longshore.worker.targets.base import Source
from longshore.worker.targets.lxd.target import LxdTarget
from tests.support.parts import require_root
from tests.support.workers.lxd import LxdDaemon

TASK = "01JCEXAMPLE000000000000000"


@dataclass
class Recorder:
    """An attempt's context. Hooks run where the real one would speak with the server."""

    data: bytes
    grants: list[tuple[str, str, Content]] = field(default_factory=list)
    opened: int = 0
    done: int = 0
    stopped: bool = False
    on_progress: Callable[[int], None] = lambda done: None
    on_commit: Callable[[str], None] = lambda temp: None
    payload: Callable[[bytes], Source] = io.BytesIO

    @classmethod
    def of_size(cls, size: int) -> Recorder:
        return cls(os.urandom(size))

    def check(self) -> None:
        if self.stopped:
            raise AttemptStopped(StopReason.CANCELLED)

    def stop(self) -> None:
        self.stopped = True

    def progress(self, done: int, total: int) -> None:
        assert 0 <= done <= total == len(self.data)
        self.done = done
        self.on_progress(done)

    def commit(self, temp: str, *, method: str, content: Content) -> None:
        self.on_commit(temp)
        self.grants.append((temp, method, content))

    def open_payload(self) -> Source:
        self.opened += 1
        return self.payload(self.data)


class InstanceView(Protocol):
    """An instance of some target, seen from inside."""

    @property
    def target(self) -> Target: ...
    @property
    def instance(self) -> str: ...
    @property
    def no_owner(self) -> int:
        """An id that no file there can have."""
        ...

    def read(self, path: str) -> bytes: ...
    def plant(self, path: str, content: bytes, mode: int = 0o644, uid: int = 0, gid: int = 0) -> None: ...
    def owner_and_mode(self, path: str) -> tuple[int, int, int]: ...
    def run(self, command: str) -> str:
        """A shell command inside."""
        ...

    def temps(self) -> str: ...
    def inode(self, path: str) -> int: ...
    def link(self, to: str, path: str) -> None: ...
    def folder(self, path: str) -> None: ...
    def move(self, path: str, to: str) -> None: ...
    def mounted(self, origin: str, path: str) -> AbstractContextManager[None]:
        """A file bound over another one."""
        ...

    def read_only(self, path: str) -> AbstractContextManager[None]: ...
    def proc(self, path: str) -> AbstractContextManager[None]: ...


@dataclass
class LxdPlace:
    """A running container."""

    daemon: LxdDaemon
    target: LxdTarget
    instance: str
    no_owner: int = 2**32 - 2

    def run(self, command: str) -> str:
        return self.daemon.run_in(self.instance, command)

    def read(self, path: str) -> bytes:
        return self.daemon.read(self.instance, path)

    def plant(self, path: str, content: bytes, mode: int = 0o644, uid: int = 0, gid: int = 0) -> None:
        text = content.decode("ascii")
        self.run(f"printf '%s' '{text}' > {path} && chown {uid}:{gid} {path} && chmod {mode:o} {path}")

    def owner_and_mode(self, path: str) -> tuple[int, int, int]:
        uid, gid, mode = self.run(f"stat -c '%u %g %a' {path}").split()
        return int(uid), int(gid), int(mode, 8)

    def temps(self) -> str:
        return self.daemon.temps(self.instance)

    def inode(self, path: str) -> int:
        return int(self.run(f"stat -c %i {path}"))

    def link(self, to: str, path: str) -> None:
        self.run(f"ln -s {to} {path}")

    def folder(self, path: str) -> None:
        self.run(f"mkdir -p {path}")

    def move(self, path: str, to: str) -> None:
        self.run(f"mv {path} {to}")

    @contextmanager
    def mounted(self, origin: str, path: str) -> Iterator[None]:
        with self._mount(f"mount -o bind {origin} {path}", path):
            yield

    @contextmanager
    def read_only(self, path: str) -> Iterator[None]:
        with self._mount(f"mount -t tmpfs -o ro tmpfs {path}", path):
            yield

    @contextmanager
    def proc(self, path: str) -> Iterator[None]:
        assert self.run(f"ls {path}/self")
        yield

    @contextmanager
    def _mount(self, command: str, path: str) -> Iterator[None]:
        self.run(command)
        try:
            yield
        finally:
            self.run(f"umount {path}")


@dataclass
class DirectoryPlace:
    """A folder; what runs "inside" sees it as its root."""

    base: Path
    target: Target
    instance: str
    no_owner: int = 2**32

    def __post_init__(self) -> None:
        for name in ("root", "etc", "tmp"):
            (self.base / self.instance / name).mkdir(parents=True, exist_ok=True)

    def _outside(self, path: str) -> Path:
        return self.base / self.instance / path.lstrip("/")

    def run(self, command: str) -> str:
        raise NotImplementedError(command)

    def read(self, path: str) -> bytes:
        return self._outside(path).read_bytes()

    def plant(self, path: str, content: bytes, mode: int = 0o644, uid: int = 0, gid: int = 0) -> None:
        file = self._outside(path)
        file.write_bytes(content)
        os.chown(file, uid, gid)
        file.chmod(mode)

    def owner_and_mode(self, path: str) -> tuple[int, int, int]:
        found = self._outside(path).lstat()
        return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)

    def temps(self) -> str:
        found = []
        for folder, below, names in os.walk(self.base):
            below[:] = [name for name in below if name != "proc"]  # without end, and nobody's temps
            found += [f"{folder}/{name}" for name in names if name.startswith(".longshore-")]
        return " ".join(found)

    def inode(self, path: str) -> int:
        return self._outside(path).stat().st_ino

    def link(self, to: str, path: str) -> None:
        self._outside(path).symlink_to(to)

    def folder(self, path: str) -> None:
        self._outside(path).mkdir(parents=True, exist_ok=True)

    def move(self, path: str, to: str) -> None:
        self._outside(path).rename(self._outside(to))

    @contextmanager
    def mounted(self, origin: str, path: str) -> Iterator[None]:
        with self._mount(path, "--bind", str(self._outside(origin))):
            yield

    @contextmanager
    def read_only(self, path: str) -> Iterator[None]:
        with self._mount(path, "-t", "tmpfs", "-o", "ro", "tmpfs"):
            yield

    @contextmanager
    def proc(self, path: str) -> Iterator[None]:
        self.folder(path)
        with self._mount(path, "-t", "proc", "proc"):
            yield

    @contextmanager
    def _mount(self, path: str, *arguments: str) -> Iterator[None]:
        require_root()
        place = str(self._outside(path))
        subprocess.run(["mount", *arguments, place], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", place], check=True)


def a_push(instance: str, path: str, data: bytes, **more: Any) -> Push:
    """A push of `data`, with the defaults of a task that says nothing else."""
    said: dict[str, object] = {"task_id": TASK, "attempt": 1, "project": "", "instance": instance, "path": path}
    content = {"size": len(data), "crc32c": google_crc32c.value(data)}
    return Push(**{**said, **content, **more})


def deliver(place: InstanceView, path: str, recorder: Recorder, **more: Any) -> Pushed:
    """Push the recorder's data to a path, without pauses between tries."""
    push = replace(a_push(place.instance, path, recorder.data), **more)
    return push_file(push, recorder, place.target, pause=lambda _: None)


def failure(place: InstanceView, path: str, **more: object) -> PermanentError:
    """Return the permanent error of a push that asks for no commit and leaves no temp."""
    recorder = Recorder(b"content")
    with pytest.raises(PermanentError) as caught:
        deliver(place, path, recorder, **more)
    assert recorder.grants == [], "nobody asks for a commit that cannot be"
    assert place.temps() == ""
    assert not caught.value.left_temps
    return caught.value


class Seen:
    """Collects changes, and waits for one."""

    def __init__(self) -> None:
        self._changes: list[InstanceChange] = []
        self._more = threading.Condition()

    def __call__(self, change: InstanceChange) -> None:
        with self._more:
            self._changes.append(change)
            self._more.notify()

    def wait_for(self, change: InstanceChange) -> None:
        with self._more:
            assert self._more.wait_for(lambda: change in self._changes, timeout=20), f"never seen: {change}"
            self._changes.clear()
