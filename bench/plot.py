"""The figures as one picture: each comparison a bar from 1 (the peer) to its ratio, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, Final

LABEL: Final = 430
WIDTH: Final = 520
HEIGHT: Final = 22
FONT: Final = 'font-family="sans-serif" font-size="12"'
COLOURS: Final = {True: "#2e7d5b", False: "#b3452c", None: "#8a8f98"}
"""A bar's colour shows a goal that was reached (True), one that was missed (False), or that there is no goal (None)."""


def svg(comparisons: Sequence[dict[str, Any]]) -> str:
    """An SVG of the comparisons (as `bench.rows.record` has them). Where less is better, the bar goes to the left."""
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
