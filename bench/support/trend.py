"""A figure over time: its slope by least squares with the standard error, and whether the figure stays flat.

The samples are averaged in blocks first, because neighbours are alike and would make the error look smaller than it
is. Each life of a process has a level of its own, and all lives share one slope: a restart is no change.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

Sample = tuple[int, float, float]
"""The number of the life, the minutes since the beginning, and the figure."""

BLOCKS: Final = 12
"""Averages that a life is made of."""
SURE: Final = 1.96
"""Standard errors on either side that make a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Trend:
    """The slope a minute, its standard error, the mean, and the minutes that were looked at."""

    slope: float
    error: float
    mean: float
    minutes: float

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Trend:
        """Fit lives with one slope. Raises ValueError when there are too few samples."""
        lives: dict[int, list[tuple[float, float]]] = {}
        for life, minute, figure in samples:
            lives.setdefault(life, []).append((minute, figure))
        centred: list[tuple[float, float]] = []
        used = 0
        for points in lives.values():
            blocks = _blocks(points)
            if len(blocks) < 2:
                continue
            used += 1
            middle = statistics.fmean(minute for minute, _ in blocks), statistics.fmean(figure for _, figure in blocks)
            centred += [(minute - middle[0], figure - middle[1]) for minute, figure in blocks]
        freedom = len(centred) - used - 1
        if freedom < 1:
            raise ValueError("too few samples for a slope")
        spread = sum(minute * minute for minute, _ in centred)
        slope = sum(minute * figure for minute, figure in centred) / spread
        left = sum((figure - slope * minute) ** 2 for minute, figure in centred)
        minutes = [minute for _, minute, _ in samples]
        return cls(
            slope,
            math.sqrt(left / freedom / spread),
            statistics.fmean(figure for _, _, figure in samples),
            max(minutes) - min(minutes),
        )

    @property
    def drift(self) -> float:
        """Return the share of the mean by which the figure changes over the run, if the slope holds."""
        return self.slope * self.minutes / self.mean if self.mean else 0.0

    def flat(self, share: float) -> bool:
        """Return whether the 95 % interval of the slope has a fall or 0 in it, or the drift is below the share."""
        return self.slope - SURE * self.error <= 0 or self.drift <= share


def _blocks(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Average neighbours, so that at most BLOCKS points are left."""
    size = max(1, math.ceil(len(points) / BLOCKS))
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(statistics.fmean(m for m, _ in part), statistics.fmean(f for _, f in part)) for part in parts]
