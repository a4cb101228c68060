"""This module turns errors of the disk into the model's errors, by one table from errno to error."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from longshore.server.model.errors import LongshoreError, SpoolDamaged, SpoolFull, StoreUnavailable

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
DAMAGED: Final = frozenset({errno.EIO, errno.ENOENT, errno.ESTALE, errno.EUCLEAN, errno.ENOTDIR, errno.EBADMSG})

_RETRY_FULL: Final = 5.0
"""Seconds until another try: payloads are removed when their tasks are done, not sooner."""


def fault(error: OSError, what: str) -> LongshoreError:
    """Turn `error`, met while doing `what` (a phrase such as "writing an upload"), into an error of the model."""
    if error.errno in FULL:
        return SpoolFull(
            f"The disk of the spool is full ({what}). Try later with the same request id.",
            subject="spool",
            retry_after=_RETRY_FULL,
        )
    if error.errno in DAMAGED:
        return SpoolDamaged(f"The spool is damaged ({what}): {error.strerror}.")
    return StoreUnavailable(f"The spool cannot be used now ({what}): {error.strerror}. Try again.")


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise errors of the disk as SpoolFull, SpoolDamaged or StoreUnavailable."""
    try:
        yield
    except OSError as error:
        raise fault(error, what) from error
