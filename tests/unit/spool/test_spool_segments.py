"""Segments: names that say what is in them, and chains."""

from __future__ import annotations

import itertools
import random

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.server.spool.objects.segments import Mark, Segment, chain, parse

DATA = random.Random(1).randbytes(64)
OTHER = DATA[:20] + random.Random(2).randbytes(44)


def mark(data: bytes, at: int) -> Mark:
    return at, int(google_crc32c.value(data[:at]))


def segment(data: bytes, start: int, end: int) -> Segment:
    (_, crc_start), (_, crc_end) = mark(data, start), mark(data, end)
    return Segment(start, end, crc_start, crc_end)


def test_a_name_says_everything() -> None:
    one = Segment(8 << 20, 16 << 20, 0xDEADBEEF, 7)
    assert one.name == "0000000000800000.0000000001000000.deadbeef.00000007"
    assert parse(one.name, 8 << 20) == one


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("0000000000000000.0000000000000010.00000000.deadbeef", 15),
        ("0000000000000010.0000000000000010.00000000.deadbeef", 0),
        ("0000000000000000.0000000000000010.00000000", 16),
        ("identity", 78),
        ("", 0),
    ],
)
def test_short_or_foreign_names_are_no_segments(name: str, size: int) -> None:
    assert parse(name, size) is None


def test_nothing_is_a_chain_to_nothing() -> None:
    assert chain([], (0, 0)) == ()
    assert chain([], mark(DATA, 3)) is None


def test_segments_of_other_bytes_are_on_no_chain() -> None:
    mine = [segment(DATA, 0, 20), segment(DATA, 20, 40), segment(DATA, 40, 64)]
    theirs = [segment(OTHER, 20, 40), segment(OTHER, 40, 64)]
    assert chain([*theirs, *mine], mark(DATA, 64)) == tuple(mine)
    assert chain([*theirs, *mine], mark(OTHER, 64)) == (mine[0], *theirs)
    assert chain([*theirs, *mine[:2]], mark(DATA, 64)) is None


@given(
    marks=st.lists(st.lists(st.integers(1, 63), max_size=6), min_size=1, max_size=4),
    lost=st.sets(st.integers(0, 30), max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_a_chain_is_found_exactly_where_there_is_one(
    marks: list[list[int]], lost: set[int], order: random.Random
) -> None:
    """Several connections that cut the same bytes at different places; some objects are lost."""
    put: set[Segment] = set()
    for cuts in marks:
        ends = [0, *sorted(set(cuts)), len(DATA)]
        put |= {segment(DATA, start, end) for start, end in itertools.pairwise(ends)}
    kept = [one for number, one in enumerate(sorted(put)) if number not in lost]
    order.shuffle(kept)
    reached = {0}
    for one in sorted(kept):
        if one.start in reached:
            reached.add(one.end)
    found = chain(kept, mark(DATA, len(DATA)))
    assert (found is not None) == (len(DATA) in reached)
    if found is not None:
        assert [one.start for one in found] == [0, *(one.end for one in found[:-1])]
        assert found[-1].end == len(DATA)
        assert set(found) <= set(kept)
