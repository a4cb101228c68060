"""Everything that can be set, with its default. The command line, the environment and the TOML file fill this in."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from longshore.server.logs import LogFormat, LogLevel

MIB: Final = 1 << 20
DAY: Final = 24 * 3600.0
DEFAULT_LISTEN: Final = "127.0.0.1:7465"


class SettingsError(Exception):
    """A setting is wrong; the message names the option and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds (P3). Bytes where not said otherwise; 0: unbounded, where that is allowed."""

    queue_tasks: int = 100_000
    caller_tasks: int = 0
    uploads: int = 64
    caller_uploads: int = 0
    spool_bytes: int = 0
    disk_reserve: int = 256 * MIB
    instance_tasks: int = 4
    target_tasks: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Durations in seconds."""

    lease: float = 6.0
    cancel_grace: float = 30.0
    drain_grace: float = 20.0
    upload_idle: float = 600.0
    retention: float = DAY
    history: float = 7 * DAY
    run_timeout: float = 3600.0
    expire_after: float = 7 * DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One server's settings."""

    data_dir: Path
    listen: str = DEFAULT_LISTEN
    database: str = ""
    """`sqlite:///PATH` or a libpq URL `postgresql://...`; empty: longshore.db in the data directory."""
    spool: str = ""
    """`file:///PATH`; empty: spool/ in the data directory."""
    advertise: str = ""
    """Where workers reach this very server, past any load balancer; empty: where it listens."""
    attempt_limit: int = 5
    limits: Limits = field(default_factory=Limits)
    times: Times = field(default_factory=Times)
    log_format: LogFormat = "auto"
    log_level: LogLevel = "info"
    tune_malloc: bool = True
    share_spool: bool = True
    """Tell workers on this machine where payloads lie, so that they need not download them."""
    worker: bool = False
    worker_targets: tuple[str, ...] = ()
    worker_concurrency: int = 8


def check_listen(address: str) -> str:
    """The address for gRPC to bind, or SettingsError. Only loopback and unix sockets: there is no TLS yet (P14)."""
    if address.startswith("unix:"):
        path = address.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise SettingsError(f"--listen {address}: give an absolute path, as in unix:/run/longshore/longshore.sock.")
        if len(path.encode()) > 107:
            raise SettingsError(f"--listen {address}: the path is longer than the 107 bytes a unix socket may have.")
        return f"unix:{path}"
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"--listen {address}: write HOST:PORT or unix:PATH, as in {DEFAULT_LISTEN}.")
    if not _is_loopback(host.strip("[]")):
        raise SettingsError(
            f"--listen {address}: refused, because {host} can be reached from other machines, and this version "
            "has neither TLS nor accounts: the token would cross the network in the clear. Listen on "
            f"{DEFAULT_LISTEN} or on a unix socket, and let other machines come through an SSH tunnel."
        )
    return address


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_postgres(url: str) -> bool:
    """`--database` names a database that several servers may share."""
    return urlsplit(url).scheme in ("postgresql", "postgres")


def sqlite_path(url: str, default: Path) -> Path:
    """The database file of a `--database` that is not PostgreSQL's."""
    if not url:
        return default
    parts = urlsplit(url)
    if parts.scheme != "sqlite" or parts.netloc or not parts.path.startswith("/"):
        raise SettingsError(
            f"--database {without_password(url)}: write sqlite:///PATH with an absolute path, as in "
            "sqlite:////srv/longshore.db, or postgresql://USER@HOST/DATABASE."
        )
    return Path("/" + parts.path.lstrip("/"))


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    try:
        parts = urlsplit(url)
        if parts.password is None:
            return url
    except ValueError:
        return url
    return parts._replace(netloc=f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}").geturl()


def spool_path(url: str, default: Path) -> Path:
    """The folder of `--spool`."""
    if not url:
        return default
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc or not parts.path.startswith("/"):
        raise SettingsError(
            f"--spool {url}: write file:///PATH with an absolute path. Other spools are not part of this version."
        )
    return Path(parts.path)
