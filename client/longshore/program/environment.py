"""This module knows the environment variables of the three programs, and finds those that are set and that no program
reads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

_PREFIX: Final = "LONGSHORE_"

_CLIENTS: Final = frozenset(
    {"SERVER", "TLS", "TLS_CA", "TLS_CERT", "TLS_KEY", "TLS_SERVER_NAME", "TOKEN", "TOKEN_FILE", "DATA_DIR"}
)
"""Names that `longshore` and the client library read."""
# fmt: off
_SERVERS: Final = frozenset(
    {
        "ADVERTISE", "ATTEMPT_LIMIT", "CALLER_LIMIT", "CALLER_UPLOAD_LIMIT", "CANCEL_GRACE", "CLIENT_ROLE",
        "CONFIG", "DATABASE", "DATA_DIR", "DISK_RESERVE", "DRAIN_GRACE", "EXPIRE_AFTER", "HISTORY",
        "INSTANCE_LIMIT", "LEASE", "LISTEN", "LOG_FORMAT", "LOG_LEVEL", "MALLOC_TUNING", "QUEUE_LIMIT", "QUIET",
        "RETENTION", "RUN_TIMEOUT", "SHARE_SPOOL", "SPOOL", "SPOOL_LIMIT", "TARGET", "TARGET_LIMIT", "TLS_CERT",
        "TLS_CLIENT_CA", "TLS_KEY", "UPLOAD_IDLE", "UPLOAD_LIMIT", "WORKER", "WORKER_CONCURRENCY",
    }
)
"""Names of the options of `longshored`."""
_WORKERS: Final = frozenset(
    {
        "ALLOW_FILES_API", "CONCURRENCY", "DATA_DIR", "GRACE", "HANDLERS", "LOG_FORMAT", "LOG_LEVEL",
        "MAX_WEDGED", "NAME", "REHOME", "SERVER", "STATE_DIR", "STOP_GRACE", "TARGET", "TEMP_DIR", "TLS",
        "TLS_CA", "TLS_CERT", "TLS_KEY", "TLS_SERVER_NAME", "TOKEN_FILE",
    }
)
"""Names of the options of `longshore-worker`, each after WORKER_."""
# fmt: on

KNOWN: Final = frozenset(
    {_PREFIX + name for name in _CLIENTS | _SERVERS} | {f"{_PREFIX}WORKER_{name}" for name in _WORKERS}
)
"""Every name that one of the programs reads. A name that another program reads is no mistake."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A name that is set and that no program reads. `nearest` is empty where no known name is like it."""

    name: str
    nearest: str

    def __str__(self) -> str:
        meant = f"; did you mean {self.nearest}?" if self.nearest else ""
        return f"the environment sets {self.name}, which no program of Longshore reads{meant}"


def unknown(environ: Mapping[str, str], *, known: Iterable[str] = KNOWN) -> list[Unknown]:
    """List the unknown names that begin with LONGSHORE_, in order. Their values are not shown, because they may be
    secret."""
    rest = {name.removeprefix(_PREFIX): name for name in known}
    strange = sorted(name for name in environ if name.startswith(_PREFIX) and name not in rest.values())
    near = {name: difflib.get_close_matches(name.removeprefix(_PREFIX), rest, n=1) for name in strange}
    return [Unknown(name, rest[found[0]] if found else "") for name, found in near.items()]
