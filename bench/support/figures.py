"""Figures beside each other: their ratio, the goal, the one line in which both are printed, and the plot of them all.

    ROW: ours X, PEER Y: R × PEER [min..max], goal G: reached|missed

X and Y are medians over the rounds, R is X / Y, min and max are the extremes of the rounds' own ratios.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
MB: Final = 1e6
"""Rates are in MB/s, as disks' are."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal bounds the ratio of medians or, with `ours`, our own median in the unit of the comparison."""

    at_least: float | None = None
    at_most: float | None = None
    ours: bool = False

    def reached(self, ours: float, ratio: float) -> bool:
        value = ours if self.ours else ratio
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def text(self, unit: str) -> str:
        sign, value = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{sign} {value:g} {unit}" if self.ours else f"{sign} {value:g}"


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratio of two medians, with the extremes of the rounds' own ratios."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
        below = statistics.median(theirs)
        median = statistics.median(ours) / below if below else float("inf")
        each = [one / other for one, other in zip(ours, theirs, strict=False) if other] or [median]
        return cls(median, min(each), max(each))

    def times(self, peer: str) -> str:
        return f"{self.median:.2f} × {peer} [{self.least:.2f}..{self.most:.2f}]"

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.least:.2f}..{self.most:.2f}]"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ours against one peer, a figure a round each. `slow`: microseconds that each sync took longer."""

    row: str
    what: str
    unit: str
    peer: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    goal: Goal | None = None
    slow: int = 0

    @property
    def ratio(self) -> Ratio:
        return Ratio.of(self.ours, self.theirs)

    @property
    def reached(self) -> bool | None:
        if self.goal is None:
            return None
        return self.goal.reached(statistics.median(self.ours), self.ratio.median)

    def line(self) -> str:
        slow = f" (sync +{self.slow / 1000:g} ms)" if self.slow else ""
        what = f" {self.what}" if self.what else ""
        said = (
            f"{self.row}{what}{slow}: ours {number(statistics.median(self.ours))} {self.unit}, "
            f"{self.peer} {number(statistics.median(self.theirs))} {self.unit}: {self.ratio.times(self.peer)}"
        )
        if self.goal is None:
            return f"{said}, no goal"
        return f"{said}, goal {self.goal.text(self.unit)}: {'reached' if self.reached else 'missed'}"


def number(value: float) -> str:
    """Three digits that count, with separators."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """The median of the rounds, with its extremes."""
    return f"{number(statistics.median(values))} [{number(min(values))}..{number(max(values))}]"


def quantile(values: Sequence[float], of: float) -> float:
    """The value below which this share of them lies; 0.5 is the upper median."""
    return sorted(values)[min(len(values) - 1, int(of * len(values)))]


# The plot: each comparison is a bar from 1 (the peer) to its ratio, on a logarithmic scale.

LABEL: Final = 430
WIDTH: Final = 520
HEIGHT: Final = 22
FONT: Final = 'font-family="sans-serif" font-size="12"'
COLOURS: Final = {True: "#2e7d5b", False: "#b3452c", None: "#8a8f98"}
"""A bar's colour shows a goal that was reached (True), one that was missed (False), or that there is no goal (None)."""


def svg(comparisons: Sequence[dict[str, Any]]) -> str:
    """An SVG of the comparisons (as `bench.support.run.record` has them). Where less is better, the bar goes left."""
    ratios = [_clamped(each["ratio"]) for each in comparisons] or [1.0]
    low, high = min(*ratios, 0.5), max(*ratios, 2.0)

    def x(ratio: float) -> float:
        return LABEL + WIDTH * (math.log(_clamped(ratio)) - math.log(low)) / (math.log(high) - math.log(low))

    height = HEIGHT * len(comparisons) + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL + WIDTH + 90}" height="{height}" {FONT}>',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{x(1.0):.0f}" y="16" text-anchor="middle" fill="#555">the peer = 1</text>',
        f'<line x1="{x(1.0):.1f}" x2="{x(1.0):.1f}" y1="22" y2="{height - 20}" stroke="#555"/>',
    ]
    for index, each in enumerate(comparisons):
        y = 30 + HEIGHT * index
        left, right = sorted((x(1.0), x(each["ratio"])))
        name = " ".join(filter(None, (each["row"], each["what"], "slow disk" if each["slow"] else "")))
        width, colour = max(1.0, right - left), COLOURS[each["reached"]]
        parts += [
            f'<text x="{LABEL - 8}" y="{y + 12}" text-anchor="end">{escape(name)} : {escape(each["peer"])}</text>',
            f'<rect x="{left:.1f}" y="{y}" width="{width:.1f}" height="{HEIGHT - 7}" fill="{colour}"/>',
            f'<text x="{right + 5:.1f}" y="{y + 12}">{each["ratio"]:.2f}</text>',
        ]
        goal = each["goal"]
        if goal and not goal["ours"]:
            at = x(goal["at_least"] if goal["at_least"] is not None else goal["at_most"])
            ends = f'x1="{at:.1f}" x2="{at:.1f}" y1="{y - 2}" y2="{y + HEIGHT - 5}"'
            parts.append(f'<line {ends} stroke="black" stroke-dasharray="2,2"/>')
    parts.append(f'<text x="8" y="{height - 6}" fill="#555">Green: goal reached. Red: missed. Grey: no goal.</text>')
    return "\n".join([*parts, "</svg>", ""])


def _clamped(ratio: float) -> float:
    return min(max(ratio, 1e-3), 1e3)
