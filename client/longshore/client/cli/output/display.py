"""Progress on standard error: bars on a terminal, and only what matters in a log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console
from rich.markup import escape

from longshore.client.cli.output.exits import brief
from longshore.client.errors import LongshoreError
from longshore.client.transfer.upload import UploadProgress
from longshore.program.durations import format_duration
from longshore.program.visible import visible
from longshore.v1 import task_pb2

if TYPE_CHECKING:
    from rich.progress import TaskID

    from longshore.client.cli.output.bars import Bars

_UNSEEN: Final = 0.3
"""Seconds before a bar is drawn: a small file is done by then, and its bar would be a flash."""


class Display:
    """A context. On a terminal bars are drawn; elsewhere there are none. A pause is told once for each cause."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._quiet: Final = quiet
        self._console: Final = console
        self._told: str | None = None
        self._told_why = ""
        self._bars: Final = _bars(console) if console.is_terminal and not quiet else None

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Hide the bars while the block prints on standard output, which may be the same screen."""
        if self._bars is not None:
            self._bars.stop()
        try:
            yield
        finally:
            if self._bars is not None:
                self._bars.start()

    def bar(self, title: str) -> Bar:
        """Make a bar, which is shown from its first movement on."""
        return Bar(self, self._bars, title)

    def waiting(self, problem: LongshoreError, pause: float) -> None:
        """Tell that a call is tried again in `pause` seconds."""
        said = brief(problem)
        if not self._quiet and said != self._told:
            self._told = said
            self._console.print(f"[yellow]waiting:[/] {escape(said)}; next try in {format_duration(pause)}")

    def waits(self, why: str, *, since: float) -> None:
        """Tell that tasks wait for this reason, since that monotonic time. Empty means that none waits. One line: on a
        terminal it stays and counts, elsewhere it is printed anew for each new reason."""
        if self._bars is not None:
            self._bars.waits = (why, since)
        elif why and why != self._told_why and not self._quiet:
            waited = format_duration(time.monotonic() - since)
            self._console.print(f"waiting {waited}: {escape(why)}", soft_wrap=True)
        self._told_why = why or self._told_why

    def moving(self) -> None:
        """Note that the work goes on, so that the next pause is news again."""
        self._told = None


class Bar:
    """One file on its way up, or one attempt on its way into its instance. Drawn when it has moved for a while."""

    def __init__(self, display: Display, bars: Bars | None, title: str) -> None:
        self._display: Final = display
        self._bars: Final = bars
        self._title: Final = visible(title)
        self._id: TaskID | None = None
        self._due: asyncio.TimerHandle | None = None
        self._counts = False

    def uploaded(self, progress: UploadProgress) -> None:
        """Draw the progress that `AsyncClient.upload` tells."""
        if progress.problem is not None:
            self._display.waiting(progress.problem, progress.pause)
        else:
            self._display.moving()
        self._draw(progress.sent, progress.size)

    def delivered(self, progress: task_pb2.Progress) -> None:
        """Draw the progress that `AsyncClient.watch` tells."""
        self._draw(progress.done, progress.total)

    def counts(self) -> None:
        """Show the progress as a count, as a job has it, and not as bytes."""
        self._counts = True

    def _draw(self, done: int, total: int) -> None:
        if self._bars is None:
            return
        if self._id is None:
            self._id = self._bars.add_task(
                escape(self._title), completed=done, total=total or None, visible=False, counts=self._counts
            )
            self._due = asyncio.get_running_loop().call_later(_UNSEEN, self._show)
        else:
            self._bars.update(self._id, completed=done, total=total or None)

    def _show(self) -> None:
        if self._bars is not None and self._id is not None:
            self._bars.update(self._id, visible=True)

    def end(self) -> None:
        """Take it away."""
        if self._due is not None:
            self._due.cancel()
        if self._bars is not None and self._id is not None:
            self._bars.remove_task(self._id)
            self._id = None


def _bars(console: Console) -> Bars:
    from longshore.client.cli.output.bars import Bars

    return Bars(console)
