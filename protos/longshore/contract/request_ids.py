"""New request ids."""

from __future__ import annotations

import os
import time
from typing import Final

_VERSION_7: Final = 7 << 76
_VARIANT: Final = 2 << 62
_RANDOM: Final = (1 << 128) - 1 & ~(0xFFFF_FFFF_FFFF << 80 | 0xF << 76 | 3 << 62)


def new_request_id() -> str:
    """Make a request id that nobody has used: a UUID of version 7 (RFC 9562, section 5.7), as text with dashes.

    The ids of one moment are neighbours, because they begin with the time in milliseconds. A database has two indexes
    of request ids, and a commit of forty tasks with such ids changes a few pages of them instead of forty of each.
    """
    value = (time.time_ns() // 1_000_000 & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(os.urandom(16)) & _RANDOM
    text = f"{value | _VERSION_7 | _VARIANT:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
