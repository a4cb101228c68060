"""Tables that stay readable: columns where the terminal is wide enough for them, else a few lines for each row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Literal

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from longshore.program.visible import visible

if TYPE_CHECKING:
    from rich.table import Table

_GAP: Final = 2
_FOLDED: Final = 24
"""Columns that a cell which may be folded gets at least, if it has so much to say: narrower ones are read letter by
letter. A row of `list` took 25 lines on a terminal of 80 columns."""
_HEAD: Final = 2
"""Cells in the first line of a row that has several lines."""
_NOTHING: Final = frozenset({"", "0", "-"})


class Rows:
    """Rows of cells with markup. Columns to `fold` give way first when the terminal is narrow; no cell is ever cut, as
    what is cut off cannot be copied."""

    def __init__(self, *columns: str, right: Iterable[str] = (), fold: Iterable[str] = ()) -> None:
        self._columns: Final = columns
        self._right: Final = frozenset(right)
        self._fold: Final = frozenset(fold)
        self._rows: Final[list[tuple[str, ...]]] = []
        self.show_header = True

    def add_row(self, *cells: str) -> None:
        """Add a row, with one cell for each column."""
        # Here, since a text with markup that is made below takes newlines as they are, and drops other characters.
        self._rows.append(tuple(map(visible, cells)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console
        if self._width() <= options.max_width:
            yield self._table()
        else:
            for cells in self._rows:
                yield from self._lines(cells)

    def _width(self) -> int:
        """Columns of the terminal that the table needs."""
        widths = []
        for number, column in enumerate(self._columns):
            widest = max([len(column), *(Text.from_markup(cells[number]).cell_len for cells in self._rows)])
            widths.append(min(widest, _FOLDED) if column in self._fold else widest)
        return sum(widths) + _GAP * (len(widths) - 1)

    def _table(self) -> Table:
        from rich.table import Table

        made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
        made.show_header = self.show_header
        for column in self._columns:
            justify: Literal["left", "right"] = "right" if column in self._right else "left"
            made.add_column(column, no_wrap=column not in self._fold, overflow="fold", justify=justify)
        for cells in self._rows:
            made.add_row(*cells)
        return made

    def _lines(self, cells: tuple[str, ...]) -> Iterable[RenderableType]:
        """Print the first cells of a row in one line, and beneath it each of the other cells that says something."""
        named = list(zip(self._columns, cells, strict=True))
        head = [cell for column, cell in named[:_HEAD] if column not in self._right]
        yield Text.from_markup("  ".join(cell for cell in head if cell))
        rest = [f"[dim]{column.lower()}[/] {cell}" for column, cell in named[len(head) :] if cell not in _NOTHING]
        if rest:
            from rich.padding import Padding

            yield Padding(Text.from_markup("  ".join(rest), overflow="fold"), (0, 0, 0, 4))
