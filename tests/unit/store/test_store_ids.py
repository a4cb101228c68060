"""Ids of tasks: 26 characters that sort by acceptance and lead back to it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.server.store.tables.ids import id_ranges, seq_of, task_id

seqs = st.integers(1, 2**50 - 1)
bits = st.integers(0, 2**80 - 1)


@given(seqs, bits, seqs, bits)
def test_ids_sort_by_acceptance(first: int, one: int, second: int, other: int) -> None:
    if first != second:
        assert (task_id(first, one) < task_id(second, other)) == (first < second)


@given(seqs, bits)
def test_ids_lead_back_to_their_numbers(seq: int, random: int) -> None:
    made = task_id(seq, random)
    assert len(made) == 26
    assert set(made) <= set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
    assert seq_of(made) == seq


@given(bits, bits)
def test_the_random_part_is_all_there(one: int, other: int) -> None:
    assert (task_id(7, one) == task_id(7, other)) == (one == other)


def test_known_ids() -> None:
    assert task_id(1, 0) == "0000000001" + "0" * 16
    assert task_id(2**50 - 1, 2**80 - 1) == "Z" * 26
    assert task_id(33, 31) == "0000000011" + "0" * 15 + "Z"


@pytest.mark.parametrize(
    "wrong", ["", "0" * 25, "0" * 27, "I" * 26, "u" * 26, "_" * 26, "0000_00001" + "0" * 16, "é" * 26]
)
def test_an_invalid_id_has_no_number(wrong: str) -> None:
    assert seq_of(wrong) is None


@given(st.text(min_size=26, max_size=26))
def test_no_text_is_too_strange(text: str) -> None:
    seq = seq_of(text)
    assert seq is None or isinstance(seq, int)


@given(seqs, bits, st.integers(1, 26), st.booleans())
def test_a_beginning_leads_to_the_id(seq: int, random: int, length: int, with_zeros: bool) -> None:
    made = task_id(seq, random)
    prefix = (made if with_zeros else made.lstrip("0"))[:length]
    found = list(id_ranges(prefix))
    assert len(found) <= 10
    assert sum(each.first <= seq < each.beyond and made.startswith(each.prefix) for each in found) == 1
    assert all(one.first >= next_.beyond for one, next_ in itertools.pairwise(found)), "newest first"


@pytest.mark.parametrize("wrong", ["U", "-", "d3", "é", "0" * 27, "1" * 27, "D3\0"])
def test_an_invalid_beginning_of_an_id_has_no_range(wrong: str) -> None:
    assert list(id_ranges(wrong)) == []
