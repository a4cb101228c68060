"""These consoles print the text of others as plain text: nothing in it moves the cursor, colours, hides, or begins a
line."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from longshore.program.visible import visible

_WIDE: Final = 10_000
"""Columns of an output that is no terminal: lines in a pipe are never folded."""


class VisibleConsole(Console):
    """Every string is made visible as it enters, before its width is measured: each stands for one line or a cell.

    What renderables make of texts of their own, as bars do, is made visible as it leaves. Markup is markup still:
    `rich.markup.escape` is for those who put a text of others into it.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Parse markup as the base class does, in a text whose every character is visible."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as the base class does, with all text made visible. Controls are rich's own, and stay."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment("\n".join(map(visible, segment.text.split("\n"))), segment.style)


def console(*, stderr: bool) -> Console:
    """Make a console that writes to standard output, or to standard error."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDE
    return VisibleConsole(stderr=stderr, width=width, soft_wrap=not stream.isatty(), highlight=False, emoji=False)
