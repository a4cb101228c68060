"""Text of others as it may be shown: nothing in it steers a terminal, and nothing in it hides."""

from __future__ import annotations

import json
import re
from typing import Final

_BLANK: Final = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff"
)
"""Code points that Unicode calls printable, or leaves open, and that no font shows (Default_Ignorable_Code_Point, and
the blank of Braille). `str.isprintable` is False for every other one: controls, formats such as those of direction,
lone surrogates, and each kind of space but the common one."""
_HIDDEN: Final = re.compile(f"[{_BLANK}]")


def visible(text: str) -> str:
    r"""Replace each character that is not seen by its name as Python writes it: `\n`, `\x1b`, `\u202e`.

    A line stays one line. A backslash stays as it is, so a shown text is for the eye; programs read JSON.
    """
    if text.isprintable() and not _HIDDEN.search(text):
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() and not _HIDDEN.match(character):
        return character
    return character.encode("unicode_escape").decode("ascii")


def visible_json(value: object, *, ascii_only: bool = False, indent: int | None = None) -> str:
    """JSON with the same value, in which characters that are not seen are written as `\\uXXXX`."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    if text.isprintable() and not _HIDDEN.search(text):
        return text
    # Outside of strings JSON has no such character but the line's end, so that each stands where an escape may stand.
    return "".join(c if c == "\n" or (c.isprintable() and not _HIDDEN.match(c)) else json.dumps(c)[1:-1] for c in text)
