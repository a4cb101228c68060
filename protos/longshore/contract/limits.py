"""Ranges and sizes that the contract allows."""

from __future__ import annotations

from typing import Final

DAY: Final = 86400.0
LONGEST_WAIT: Final = 366 * DAY
"""Seconds of the longest not_before, expire_after and retry_after."""
LONGEST_RUN: Final = 7 * DAY
"""Seconds of the longest run_timeout and stall_timeout."""

LARGEST_MODE: Final = 0o777
LARGEST_OWNER: Final = 2**32 - 2
"""The largest user or group id. The number above tells chown to leave the owner as it is."""
LOWEST_PRIORITY: Final = -100
HIGHEST_PRIORITY: Final = 100
MOST_ATTEMPTS: Final = 100
"""The largest attempt_limit."""
MOST_DESTINATIONS: Final = 1000
MOST_LABELS: Final = 32
MOST_STEPS: Final = 1000
"""Steps of a plan."""
LONGEST_STEP_NAME: Final = 100
"""Characters of the name of a plan's step."""
MOST_AFTER: Final = 100
"""Tasks that one task may come after."""
MOST_DEPENDENCIES: Final = 10_000
"""Dependencies of all steps of a plan together. 100,000 would hold up the leases for 2 s, in the one transaction."""
MOST_PER_PAGE: Final = 1000
"""Tasks on one page of a list."""
LONGEST_CANCEL_REASON: Final = 500
"""Characters of the reason for a cancel."""
LARGEST_ARGUMENTS: Final = 64 * 1024
"""Bytes of a job's arguments, serialized."""
LARGEST_CONTENT: Final = 64 * 1024
"""Bytes of a file that is sent together with its submission. `UploadLimits.inline_bytes` allows as many by default."""
LARGEST_RESULT: Final = 64 * 1024
"""Bytes of a job's result, serialized."""
LARGEST_ATTEMPT: Final = 2**31 - 1
"""The largest number of an attempt."""


def wrong_mode(mode: int) -> str | None:
    """Say what is wrong with permission bits.

    SFTP servers answer OK to 04755 and set 0755 (seen), so set-id and sticky bits are refused.
    """
    if 0 <= mode <= LARGEST_MODE:
        return None
    return "give 0 to 0o777; setuid, setgid and sticky are not supported, because SFTP servers drop them silently"


def wrong_owner(owner: int) -> str | None:
    """Say what is wrong with a user or group id."""
    return None if 0 <= owner <= LARGEST_OWNER else f"give 0 to {LARGEST_OWNER}, or leave it unset to keep the owner"


def wrong_seconds(seconds: float, *, longest: float, zero: bool = False) -> str | None:
    """Say what is wrong with a duration in seconds, which may be 0 only with `zero`. NaN is refused."""
    if 0 < seconds <= longest or (zero and seconds == 0):
        return None
    return f"give {'0' if zero else 'more than 0'} to {longest:.0f} s"
