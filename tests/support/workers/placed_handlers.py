"""Kinds that write down when they begin and end, in a file of their instance, and notice what runs beside them.

The record is locked while a handler runs: alone by an exclusive one, together by the others. The kernel gives a lock
back when its process dies, so a lock that cannot be had at once proves that something ran beside an exclusive task.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from longshore.worker import Context, NotReadyError, PermanentError, Registry, TransientError

registry = Registry()


def content_of(root: Path) -> list[tuple[str, int]]:
    """What a push changes: the files below the instance's root, temps too."""
    return sorted((str(path), path.stat().st_ino) for path in root.rglob("*") if path.is_file())


@contextmanager
def recorded(record: Path, title: str, *, exclusive: bool) -> Iterator[int]:
    """Hold the record's lock, write a line at the begin and at the end, and `CLASH` if another handler has it."""
    file = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.write(file, f"CLASH {title}\n".encode())
        os.write(file, f"begin {title}\n".encode())
        yield file
        os.write(file, f"end {title}\n".encode())
    finally:
        os.close(file)


@registry.handler("placed")
def placed(context: Context) -> None:
    """Runs for a while beside others, or, with `exclusive`, watches that no file of its instance changes meanwhile."""
    said: dict[str, Any] = context.unpack(dict)
    record, root, alone = Path(said["record"]), Path(said["root"]), bool(said["exclusive"])
    with recorded(record, context.task.id, exclusive=alone) as file:
        before = content_of(root) if alone else []
        context.sleep(said["seconds"])
        if alone and content_of(root) != before:
            os.write(file, f"CLASH {context.task.id} with a push\n".encode())


@registry.handler("step")
def step(context: Context) -> None:
    """One of several steps of a key, which has an accident at its first attempt, or at each."""
    said: dict[str, Any] = context.unpack(dict)
    with recorded(Path(said["record"]), f"{said['number']}", exclusive=True):
        context.sleep(0.02)
        match said["accident"], context.attempt:
            case "fails", _:
                raise PermanentError("BROKEN", "It is broken.")
            case "is tried again", 1:
                raise TransientError("FLAKY", "Not yet.", retry_after=0.05)
            case "crashes", 1:
                os.kill(os.getpid(), signal.SIGKILL)
            case "waits", _ if not Path(said["root"]).is_dir():
                raise NotReadyError("INSTANCE_NOT_FOUND", "There is no such instance.", condition="EXISTS")
            case _:
                pass
