"""Everything that can be set, with its default. The command line, the environment and the TOML file fill this in."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from longshore.program.logs import LogFormat, LogLevel
from longshore.server.model.access import Role

MIB: Final = 1 << 20
DAY: Final = 24 * 3600.0
DEFAULT_LISTEN: Final = "127.0.0.1:7465"


# Up to the last @, whatever stands in between: a password with a / or # in it breaks the URL, and is one all the same.
_USER_SECRET: Final = re.compile(r"(:(?://)?[^:@?]*:).*(@)", re.DOTALL)
_PARAMETER_SECRET: Final = re.compile(r"([?&\s](?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^&\s]*)", re.IGNORECASE)
_PORT: Final = re.compile(r"[0-9]{1,5}")


class SettingsError(Exception):
    """A setting is wrong; the message names the option and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds (P3). `spool_bytes` and `disk_reserve` are bytes, the others counts. 0 means unbounded, where allowed."""

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
class TlsFiles:
    """PEM files of the TLS listeners. With `client_ca` every client must show a certificate that one in it signed."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class DatabaseURL:
    """The value of `--database`: `sqlite:///PATH` or a libpq URL `postgresql://...`. An empty text means longshore.db
    in the data directory."""

    text: str = ""

    @property
    def shared(self) -> bool:
        """Return whether several servers may share the database."""
        return urlsplit(self.text).scheme in ("postgresql", "postgres")

    @property
    def shown(self) -> str:
        """Return the text without its secrets."""
        return without_password(self.text)

    def file(self, default: Path) -> Path:
        """Return the file of a database that is not shared. Raises SettingsError."""
        if not self.text:
            return default
        parts = urlsplit(self.text)
        if parts.scheme != "sqlite" or parts.netloc or not parts.path.startswith("/"):
            raise SettingsError(
                f"--database {self.shown}: write sqlite:///PATH with an absolute path, as in "
                "sqlite:////srv/longshore.db, or postgresql://USER@HOST/DATABASE."
            )
        return Path("/" + parts.path.lstrip("/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One server's settings."""

    data_dir: Path
    listen: tuple[str, ...] = (DEFAULT_LISTEN,)
    tls: TlsFiles | None = None
    """The PEM files of every listener but unix sockets. None means that there is no TLS, and loopback only."""
    client_roles: Mapping[str, frozenset[Role]] = field(default_factory=dict)
    """Maps a client certificate's name (URI or DNS) to the roles that it gives."""
    database: DatabaseURL = field(default_factory=DatabaseURL)
    spool: str = ""
    """`file:///PATH` or `s3://BUCKET/PREFIX`. Empty means spool/ in the data directory."""
    advertise: str = ""
    """The address at which workers reach this very server, past any load balancer. Empty means where it listens."""
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


def check_listeners(settings: Settings) -> tuple[str, ...]:
    """Return the addresses for gRPC to bind, in the order given. Raises SettingsError."""
    listeners = tuple(check_listen(address, tls=settings.tls is not None) for address in settings.listen)
    if not listeners:
        raise SettingsError(f"--listen: give one address at least, such as {DEFAULT_LISTEN}.")
    for address in listeners:
        if listeners.count(address) > 1 and not address.endswith(":0"):
            raise SettingsError(f"--listen {address}: is given twice.")
    return listeners


def check_listen(address: str, *, tls: bool = False) -> str:
    """Return the address for gRPC to bind. Other machines are let in with TLS only (P14). Raises SettingsError."""
    if is_unix(address):
        path = address.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise SettingsError(f"--listen {address}: give an absolute path, as in unix:/run/longshore/longshore.sock.")
        if len(path.encode()) > 107:
            raise SettingsError(f"--listen {address}: the path is longer than the 107 bytes a unix socket may have.")
        return f"unix:{path}"
    host, colon, port = address.rpartition(":")
    # gRPC takes ::1:7465 for a whole IPv6 address, which is another one than was checked.
    bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not colon or bare or not is_port(port):
        raise SettingsError(f"--listen {address}: write HOST:PORT or unix:PATH, as in {DEFAULT_LISTEN}.")
    if not tls and is_exposed(address):
        raise SettingsError(
            f"--listen {address}: refused without TLS, because {host or 'it'} can be reached from other machines, and "
            "tokens would cross the network in the clear. Give --tls-cert FILE and --tls-key FILE, and make a token "
            f"with `longshored token create NAME --role ROLE`; or listen on {DEFAULT_LISTEN} or on a unix socket."
        )
    return address


def is_port(text: str) -> bool:
    """Tell whether the text is a TCP port in plain digits. 0 means any port."""
    return _PORT.fullmatch(text) is not None and int(text) < 65536


def is_unix(address: str) -> bool:
    """Tell whether the address is a unix socket, which stays plain: only this machine's users get at it."""
    return address.startswith("unix:")


def is_exposed(address: str) -> bool:
    """Tell whether other machines may reach the address."""
    return not is_unix(address) and not _is_loopback(address.rpartition(":")[0].strip("[]"))


def way_in(listeners: Sequence[str], *, tls: bool) -> str:
    """Choose the listener for the worker child, which has a token and no certificates. Raises SettingsError."""
    for address in (*filter(is_unix, listeners), *(address for address in listeners if not tls)):
        return address
    raise SettingsError(
        "--worker: each --listen address needs TLS, and the child has no certificates. Give it one without: "
        "--listen unix:/run/longshore/longshore.sock beside the others."
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def without_password(url: str) -> str:
    """Replace the secrets in a URL, so that it may be shown."""
    return _PARAMETER_SECRET.sub(r"\1***", _USER_SECRET.sub(r"\1***\2", url))


def spool_path(url: str, default: Path) -> Path:
    """Return the folder of `--spool`."""
    if not url:
        return default
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc or not parts.path.startswith("/"):
        raise SettingsError(
            f"--spool {without_password(url)}: write file:///PATH with an absolute path, or s3://BUCKET/PREFIX; of "
            "object stores only those that speak S3 are supported."
        )
    return Path(parts.path)
