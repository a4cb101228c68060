"""How many files and connections this process may have open."""

from __future__ import annotations

import resource

import structlog

_log = structlog.get_logger("longshore.server")


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one, as every process may; answers with what it is then.

    Each connection takes a descriptor and each upload another. Shells and init systems start processes with 1024, a
    number kept for the sake of select(2), which nothing here uses.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        _log.warning("open_files_limit", limit=soft, error=str(error))
        return soft
    return hard
