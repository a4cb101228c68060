"""Kinds for workers of tests: they wait for files, so that a test decides when they go on."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.wrappers_pb2 import StringValue

from longshore.worker import Context, Registry, TransientError

registry = Registry()


def wait_for(context: Context, file: Path) -> None:
    while not file.exists():
        context.sleep(0.02)


@registry.handler("until")
def until(context: Context) -> None:
    """Runs until the file that its arguments name exists. Leaves the mark `FILE.ID.begun`."""
    file = Path(context.unpack(StringValue).value)
    mark(file, context.task.id).touch()
    wait_for(context, file)


def mark(file: Path, task_id: str) -> Path:
    """Name the mark of a task of the kind `until`, which shows that its worker runs it.

    The state RUNNING is committed before the worker hears of it, and an assignment may be lost on its way.
    """
    return file.with_name(f"{file.name}.{task_id}.begun")


@registry.handler("granted")
def granted(context: Context) -> None:
    """Commits when that file exists, leaves the mark `FILE.granted`, and ends when that is removed."""
    file = Path(context.unpack(StringValue).value)
    wait_for(context, file)
    context.commit("/temp", crc32c=7)
    mark = file.with_name(f"{file.name}.granted")
    mark.touch()
    while mark.exists():
        context.sleep(0.02)


@registry.handler("flaky")
def flaky(context: Context) -> None:
    """Fails until its thirtieth attempt, quickly."""
    if context.attempt < 30:
        raise TransientError("FLAKY", "not yet", retry_after=0.02)
