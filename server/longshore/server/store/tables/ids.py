"""Task ids: 26 characters of Crockford's base32 that sort by acceptance.

The upper 50 bits are `seq`, the lower 80 are random: an id is found by its primary key, and none can be guessed from
another. (The alphabet: D. Crockford, "Base 32", https://www.crockford.com/base32.html; it is in ASCII order.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_AS_PYTHON_HAS_IT: Final = str.maketrans(
    _ALPHABET + "ILOUabcdefghijklmnopqrstuvwxyz", "0123456789abcdefghijklmnopqrstuv" + "_" * 30
)
"""Maps our digits to those that `int` reads in base 32. Any other character becomes an underscore, which is refused."""
_PAIRS: Final = [high + low for high in _ALPHABET for low in _ALPHABET]
_LENGTH: Final = 26
_RANDOM_BITS: Final = 80
_SEQ_LENGTH: Final = _LENGTH - _RANDOM_BITS // 5


def task_id(seq: int, random: int) -> str:
    """The id of the task `seq` (1 to 2**50 - 1); of `random` the lowest 80 bits count."""
    # In parts of 40 bits, which are quicker to take apart than one large number.
    high, low = random >> 40, random
    return (
        f"{_PAIRS[seq >> 40 & 1023]}{_PAIRS[seq >> 30 & 1023]}{_PAIRS[seq >> 20 & 1023]}{_PAIRS[seq >> 10 & 1023]}"
        f"{_PAIRS[seq & 1023]}{_PAIRS[high >> 30 & 1023]}{_PAIRS[high >> 20 & 1023]}{_PAIRS[high >> 10 & 1023]}"
        f"{_PAIRS[high & 1023]}{_PAIRS[low >> 30 & 1023]}{_PAIRS[low >> 20 & 1023]}{_PAIRS[low >> 10 & 1023]}"
        f"{_PAIRS[low & 1023]}"
    )


@lru_cache(maxsize=8192)
def seq_of(task_id: str) -> int | None:
    """The `seq` inside an id. None means that the text is no id. The rest of the id must still be compared."""
    if len(task_id) != _LENGTH:
        return None
    try:
        digits = task_id[:_SEQ_LENGTH].translate(_AS_PYTHON_HAS_IT)
        return None if "_" in digits else int(digits, 32)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class IdRange:
    """Ids that begin with `prefix`: all of them have a `seq` from `first` to `beyond` - 1."""

    first: int
    beyond: int
    prefix: str


def id_ranges(prefix: str) -> Iterator[IdRange]:
    """Yield the ranges of ids that begin with `prefix` (in upper case), or with zeros and then that; the highest `seq`
    first.

    A prefix with nothing but zeros stands for itself. Each number of zeros that may be left out has a range of its own,
    so that each is found by the primary key: there are ten at most, as no `seq` is 0.
    """
    for zeros in range(_SEQ_LENGTH if prefix.strip("0") else 1):
        whole = "0" * zeros + prefix
        if len(whole) > _LENGTH or set(whole) - set(_ALPHABET):
            return
        front = whole[:_SEQ_LENGTH]
        if front == "0" * _SEQ_LENGTH:
            return
        width = 32 ** (_SEQ_LENGTH - len(front))
        first = int(front.translate(_AS_PYTHON_HAS_IT), 32) * width
        yield IdRange(first, first + width, whole)
