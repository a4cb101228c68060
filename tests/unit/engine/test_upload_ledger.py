"""The rules for chunks and for the finish."""

from __future__ import annotations

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.server.engine.uploads.ledger import UploadLedger
from longshore.server.model.errors import (
    ChunkOutOfOrder,
    CrcMismatch,
    InvalidField,
    RequestIdReused,
    SizeMismatch,
)

CONTENT = bytes(range(100))


def crc(data: bytes) -> int:
    return int(google_crc32c.value(data))


def ledger(*, held: int = 0, size: int | None = None, final: bool = False, content: bytes = CONTENT) -> UploadLedger:
    return UploadLedger(held=held, held_crc=crc(content[:held]), size=size, final=final, chunk_bytes=64)


def take(books: UploadLedger, offset: int, data: bytes) -> bytes:
    return data[books.take(offset, crc(data), data) :]


def test_chunks_in_order_are_all_new() -> None:
    books = ledger(size=100)
    assert take(books, 0, CONTENT[:60]) == CONTENT[:60]
    assert take(books, 60, CONTENT[60:]) == CONTENT[60:]
    assert books.next == 100


@pytest.mark.parametrize("start", [0, 10, 40])
def test_held_bytes_are_skipped_for_any_start(start: int) -> None:
    books = ledger(held=40)
    new = b"".join(take(books, at, CONTENT[at : at + 15]) for at in range(start, 100, 15))
    assert new == CONTENT[40:]


@given(
    held=st.integers(0, 100),
    start=st.integers(0, 100),
    sizes=st.lists(st.integers(1, 64), min_size=1, max_size=100),
)
def test_whatever_the_cuts_the_new_bytes_are_the_missing_ones(held: int, start: int, sizes: list[int]) -> None:
    start = min(start, held)
    books, at, new = ledger(held=held), start, b""
    for size in sizes:
        piece = CONTENT[at : at + size]
        if not piece:
            break
        new += take(books, at, piece)
        at += len(piece)
    assert new == CONTENT[held : max(at, held)]


def test_a_first_chunk_beyond_the_held_bytes_is_out_of_order() -> None:
    with pytest.raises(ChunkOutOfOrder, match="only 40 bytes are held") as caught:
        take(ledger(held=40), 41, b"x")
    assert caught.value.metadata["expected"] == "40"


@pytest.mark.parametrize("offset", [0, 9, 11, 30])
def test_a_chunk_that_does_not_follow_is_out_of_order(offset: int) -> None:
    books = ledger()
    take(books, 0, CONTENT[:10])
    with pytest.raises(ChunkOutOfOrder):
        take(books, offset, CONTENT[offset : offset + 5])


@pytest.mark.parametrize("held", [0, 50])
def test_a_damaged_chunk_is_caught_even_in_skipped_bytes(held: int) -> None:
    with pytest.raises(CrcMismatch):
        ledger(held=held).take(0, crc(b"abc"), b"abd")


def test_more_than_declared_is_refused() -> None:
    books = ledger(size=10)
    take(books, 0, CONTENT[:10])
    with pytest.raises(SizeMismatch):
        take(books, 10, b"x")


@pytest.mark.parametrize("data", [b"", bytes(65)])
def test_a_chunk_is_neither_empty_nor_huge(data: bytes) -> None:
    with pytest.raises(InvalidField, match=r"chunk\.data"):
        take(ledger(), 0, data)


def test_other_bytes_under_the_same_id_are_noticed_as_soon_as_they_are_known() -> None:
    books = ledger(held=40)
    take(books, 0, CONTENT[:30])
    with pytest.raises(RequestIdReused, match="different content"):
        take(books, 30, b"other bytes than before")


def test_a_finished_file_is_only_repeated() -> None:
    books = ledger(held=100, final=True)
    assert take(books, 0, CONTENT[:60]) == b""
    assert take(books, 60, CONTENT[60:]) == b""
    with pytest.raises(RequestIdReused):
        take(books, 100, b"x")
    books.check_finish(100, crc(CONTENT), arrived=100, arrived_crc=crc(CONTENT))


@pytest.mark.parametrize(("size", "change"), [(99, 0), (100, 1)])
def test_a_finish_that_differs_from_a_finished_file_is_another_request(size: int, change: int) -> None:
    with pytest.raises(RequestIdReused):
        ledger(held=100, final=True).check_finish(size, crc(CONTENT) ^ change, arrived=100, arrived_crc=crc(CONTENT))


def test_a_finish_with_the_wrong_size_or_crc_is_told_apart() -> None:
    books = ledger()
    with pytest.raises(SizeMismatch):
        books.check_finish(99, crc(CONTENT), arrived=100, arrived_crc=crc(CONTENT))
    with pytest.raises(SizeMismatch, match="declares 101 bytes"):
        ledger(size=101).check_finish(100, crc(CONTENT), arrived=100, arrived_crc=crc(CONTENT))
    with pytest.raises(CrcMismatch):
        books.check_finish(100, crc(CONTENT) ^ 1, arrived=100, arrived_crc=crc(CONTENT))
