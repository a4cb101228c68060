"""CRC32C put together from pieces is that of the whole."""

from __future__ import annotations

import random

import google_crc32c
import pytest

from longshore.server.model.crc32c import combined, of_tail

SIZES = (0, 1, 2, 3, 63, 64, 1000, 4096, 65_537, 1 << 20, (2 << 20) - 1)


@pytest.mark.parametrize("second", SIZES)
@pytest.mark.parametrize("first", SIZES)
def test_two_pieces_make_the_whole(first: int, second: int) -> None:
    rng = random.Random(first * 31 + second)
    one, other = rng.randbytes(first), rng.randbytes(second)
    found = combined(google_crc32c.value(one), google_crc32c.value(other), second)
    assert found == google_crc32c.value(one + other)


def test_many_pieces_make_the_whole() -> None:
    rng = random.Random(1)
    pieces = [rng.randbytes(rng.randrange(3000)) for _ in range(300)]
    crc = 0
    for piece in pieces:
        crc = combined(crc, google_crc32c.value(piece), len(piece))
    assert crc == google_crc32c.value(b"".join(pieces))


def test_a_gibibyte_more_costs_no_look_at_it() -> None:
    """Against the definition: zeros appended one power of two after the other."""
    crc, size = google_crc32c.value(b"longshore"), 0
    zeros = google_crc32c.value(bytes(1 << 20))
    for _ in range(64):
        crc, size = combined(crc, zeros, 1 << 20), size + (1 << 20)
    whole = google_crc32c.value(b"longshore")
    for _ in range(64):
        whole = google_crc32c.extend(whole, bytes(1 << 20))
    assert crc == whole
    rest = google_crc32c.value(bytes(8 << 20))
    for _ in range(3):
        rest = combined(rest, rest, 8 << 20 << _)
    assert combined(google_crc32c.value(b"longshore"), rest, 64 << 20) == whole


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("start", [0, 1, 20, 4097])
def test_the_tail_of_a_message_needs_no_copy(start: int, size: int) -> None:
    message = random.Random(start + size).randbytes(start + size)
    assert of_tail(message, start) == google_crc32c.value(message[start:])
