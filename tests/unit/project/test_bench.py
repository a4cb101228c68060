"""The bench finds its rows, and says of a figure that it is kept only if it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.__main__ import ROWS, row
from bench.support.against import Pairs
from bench.support.trend import Trend

BENCH = Path(__file__).resolve().parents[3] / "bench"


@pytest.mark.parametrize("name", ROWS)
def test_each_name_of_the_table_is_a_row(name: str) -> None:
    assert row(name).name == name


def test_each_module_of_rows_is_in_the_table() -> None:
    assert {path.stem for path in (BENCH / "rows").glob("*.py")} == set(ROWS.values())


def waves(life: int, level: float, slope: float) -> list[tuple[int, float, float]]:
    """A figure that swings by 1 around its level and grows, sampled six times a minute for ten minutes."""
    return [(life, each / 6, level + slope * each / 6 + (1 if each % 4 < 2 else -1)) for each in range(60)]


@pytest.mark.parametrize(("slope", "flat"), [(0.0, True), (-1.0, True), (0.05, True), (1.0, False), (3.0, False)])
def test_a_figure_is_flat_unless_its_slope_is_sure_and_large(slope: float, flat: bool) -> None:
    trend = Trend.of([*waves(0, 100.0, slope), *waves(1, 60.0, slope)])
    # Lives have levels of their own: the fall from 100 to 60 is no slope.
    assert trend.slope == pytest.approx(slope, abs=4 * trend.error + 1e-9)
    assert trend.flat(0.05) is flat


def a_comparison(after: list[float], before: list[float]) -> Pairs:
    pairs = Pairs()
    pairs.figures["after"], pairs.figures["before"] = after, before
    return pairs


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ([100.0, 98.0, 97.0, 103.0], "kept"),
        ([97.0, 97.0, 97.0, 97.0], "kept"),
        ([96.0, 95.0, 96.0, 94.0], "worse"),
        ([96.0, 95.0, 96.0], "unsure"),
        ([90.0, 90.0, 102.0, 103.0, 90.0], "unsure"),
    ],
)
def test_a_version_is_worse_if_the_pairs_agree_on_it(after: list[float], verdict: str) -> None:
    before = [100.0] * len(after)
    assert a_comparison(after, before).verdict("tasks/s") == verdict
    # Of milliseconds less is better: a figure of 100 / 0.96 is as bad as a rate of 96.
    times = [1e4 / each for each in after]
    assert a_comparison(times, before).verdict("ms") == verdict
