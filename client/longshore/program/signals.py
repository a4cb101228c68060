"""Signals that long-lived programs share: none of them ends a process by accident."""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Final

_MOST: Final = 200
"""Tasks, and threads, whose place is told."""
_DEEP: Final = 4
"""Frames of each, the innermost last."""


def prepare() -> None:
    """Let SIGHUP and SIGUSR1, which would end the process, do nothing until `listen`. Call it before anything is begun.

    SIGUSR2 writes where each thread stands to standard error, in faulthandler's plain lines: it works in a process that
    hangs, too. A crash of a library writes the same.
    """
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, _nothing)
    faulthandler.register(signal.SIGUSR2, file=2, all_threads=True, chain=False)
    faulthandler.enable(file=2)


def _nothing(*_: object) -> None:
    pass


def listen(*, reload: Callable[[], None], leave: Callable[[], None], tell: Callable[[dict[str, object]], None]) -> None:
    """Handle signals in the running loop from now on: SIGHUP calls `reload`, SIGUSR1 `tell` with the process's state.

    Where standard error is a terminal, SIGHUP means that the terminal is gone, and calls `leave`.
    """
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, leave if sys.stderr.isatty() else reload)
    loop.add_signal_handler(signal.SIGUSR1, lambda: tell(state()))


def state() -> dict[str, object]:
    """Return where each asyncio task of the running loop, and each thread, stands: at most 200 of either."""
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    frames = sys._current_frames()  # noqa: SLF001 - documented, and there is no other way
    return {
        "tasks": len(tasks),
        "threads": len(frames),
        "task_places": [f"{task.get_name()}: {_task_place(task)}" for task in tasks[:_MOST]],
        "thread_places": [
            f"{number}: {_place(traceback.extract_stack(frame))}" for number, frame in list(frames.items())[:_MOST]
        ],
    }


def _task_place(task: asyncio.Task[object]) -> str:
    stack = task.get_stack(limit=_DEEP)
    return " > ".join(f"{frame.f_code.co_qualname}:{frame.f_lineno}" for frame in stack) or "done"


def _place(stack: traceback.StackSummary) -> str:
    return " > ".join(f"{frame.name}:{frame.lineno}" for frame in stack[-_DEEP:])
