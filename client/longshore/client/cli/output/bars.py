"""Bars on a terminal. The command imports this module only where it draws them: rich's own take long to import."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from longshore.client.cli.input.grammar import format_size
from longshore.program.durations import format_duration


class FiguresColumn(ProgressColumn):
    """`192 MiB of 300 MiB  346 MiB/s  1s left`, in the units of the command's tables. What is not known is left
    out."""

    def render(self, task: Task) -> Text:
        counts = task.fields.get("counts", False)

        def amount(value: float) -> str:
            return f"{value:.0f}" if counts else format_size(round(value))

        said = [amount(task.completed) + (f" of {amount(task.total)}" if task.total is not None else "")]
        if task.speed:
            said.append(f"{amount(task.speed)}/s")
            if task.time_remaining:
                said.append(f"{format_duration(task.time_remaining)} left")
        return Text("  ".join(said))


class Bars(Progress):
    """Bars, and a line below them that says why tasks wait."""

    waits: tuple[str, float] = ("", 0.0)
    """Why, and since when in monotonic time; none if it is empty."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), FiguresColumn())
        super().__init__(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        why, since = self.waits
        if why:
            waited = round(time.monotonic() - since)
            yield Text(f"waiting {format_duration(waited)}: {why}", style="yellow", no_wrap=True, overflow="ellipsis")
