"""This module reads the addresses of servers, and finds the token that they are shown."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from longshore.client.errors import ConfigurationError

DEFAULT_SERVER: Final = "127.0.0.1:7465"
SYSTEM_DATA_DIR: Final = Path("/var/lib/longshore")
"""A server that runs as root keeps its data here."""

MESSAGE_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of one message either way; chunks are of 1 MiB, pages of tasks smaller."""

KEEPALIVE: Final = 20.0
"""Seconds between pings on a quiet connection. Server and client must agree: grpc answers pings that come faster than
the server permits with GOAWAY, "too many pings"."""

SCALING: Final = '{"connectionScaling": {"maxConnectionsPerSubchannel": 10}}'
"""Further connections for calls beyond the 1,000 that a server takes at once on one. gRPC knows this since a version
after 1.76; an older one lets the calls beyond a thousand wait for an earlier call to end."""

CHANNEL_OPTIONS: Final[Sequence[tuple[str, int | str]]] = (
    ("grpc.keepalive_time_ms", int(KEEPALIVE * 1000)),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    # A server that restarts is back in a second; grpc's own back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Every client has a connection of its own: one that is drained or cut takes no other along.
    ("grpc.use_local_subchannel_pool", 1),
    # Servers stand in one's own network, and a proxy would be asked for loopback addresses too.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config", SCALING),
)

_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")
_V6: Final = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,4096}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """The token that a server is shown."""

    value: str = field(repr=False)
    named: bool
    """Whether the caller named the token. Otherwise it was found in a data directory, and is for this machine only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server's address: a host and port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""
    name: str = ""
    """The name that `host` is an address of, where it was looked up: certificates are for names."""

    @classmethod
    def parse(cls, text: str | None = None, *, environ: Mapping[str, str] = os.environ) -> Endpoint:
        """Read `HOST:PORT`, `[V6]:PORT` or `unix:PATH`; None reads $LONGSHORE_SERVER, else takes the default.

        Raises ConfigurationError, also for several addresses.
        """
        text = (text if text is not None else environ.get("LONGSHORE_SERVER", "")) or DEFAULT_SERVER
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            path = path.removeprefix("//") if path.startswith("///") else path
            if not path:
                raise ConfigurationError("unix: wants the path of a socket, as in unix:/run/longshore.sock")
            return cls(path=str(Path(path).absolute()))
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed:
            host = host[1:-1]
        elif ":" in host:
            raise ConfigurationError(f"{text!r} is no server address; write IPv6 as [::1]:7465")
        good = _V6.fullmatch(host) if bracketed else _HOST.fullmatch(host)
        if not (colon and good and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ConfigurationError(f"{text!r} is no server address; expected HOST:PORT or unix:PATH")
        return cls(host=host, port=int(port))

    @property
    def is_local(self) -> bool:
        """Return whether the address is on this machine, so that bytes sent there cannot leave it."""
        if self.path:
            return True
        host = self.name or self.host
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def is_name(self) -> bool:
        """Return whether the host is a name, which may have any number of addresses and must be looked up."""
        return not self.path and not self.is_local and not _is_address(self.host)

    @property
    def target(self) -> str:
        """Return the address as gRPC wants it."""
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.target} ({self.name})" if self.name else self.target


def parse_servers(
    servers: str | Endpoint | Sequence[str | Endpoint] | None = None, *, environ: Mapping[str, str] = os.environ
) -> tuple[Endpoint, ...]:
    """Read one or several addresses, from a text with commas or one by one, each once and in their order. None reads
    $LONGSHORE_SERVER, else takes the default. Raises ConfigurationError."""
    if servers is None:
        servers = environ.get("LONGSHORE_SERVER") or DEFAULT_SERVER
    found: dict[Endpoint, None] = {}
    for each in [servers] if isinstance(servers, str | Endpoint) else servers:
        if isinstance(each, Endpoint):
            found[each] = None
            continue
        texts = [text.strip() for text in each.split(",")]
        found |= dict.fromkeys(Endpoint.parse(text) for text in texts if text)
    if not found:
        raise ConfigurationError("no server address is given; expected HOST:PORT or unix:PATH, several with commas")
    return tuple(found)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def credentials(token: str | None) -> tuple[tuple[str, str], ...]:
    """Make the metadata that each call carries to be let in.

    Given with every call and not by an interceptor: grpc.aio feeds an intercepted client stream through a queue and a
    task of its own, which every chunk of an upload would have to pass.
    """
    return (("authorization", f"Bearer {token}"),) if token else ()


def default_data_dir(*, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the data directory of the server that this user most likely means. Raises ConfigurationError for a user
    without a home."""
    if given := environ.get("LONGSHORE_DATA_DIR"):
        return Path(given)
    if os.geteuid() == 0 and SYSTEM_DATA_DIR.is_dir():
        return SYSTEM_DATA_DIR
    if share := environ.get("XDG_DATA_HOME"):
        return Path(share) / "longshore"
    try:
        return Path.home() / ".local" / "share" / "longshore"
    except RuntimeError:
        raise ConfigurationError(
            "this user has no home directory; name the data directory with --data-dir or $LONGSHORE_DATA_DIR"
        ) from None


def find_token(
    *,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> str | None:
    """Return the token to show, as `find_credential` finds it."""
    found = find_credential(token=token, token_file=token_file, data_dir=data_dir, environ=environ)
    return None if found is None else found.value


def find_credential(
    *,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Token | None:
    """Return the token to show, and whether the caller named it.

    In this order: what is given, $LONGSHORE_TOKEN, $LONGSHORE_TOKEN_FILE, the file `token` in the data directory.
    A file that was named must be readable; the one in the data directory may be missing, and then there is no token.
    Raises ConfigurationError.
    """
    if token is not None:
        return Token(value=_checked(token, where="the given token"), named=True)
    named = token_file
    if named is None and data_dir is None:
        if value := environ.get("LONGSHORE_TOKEN"):
            return Token(value=_checked(value, where="$LONGSHORE_TOKEN"), named=True)
        named = environ.get("LONGSHORE_TOKEN_FILE") or None
    try:
        path = Path(named) if named is not None else Path(data_dir or default_data_dir(environ=environ)) / "token"
    except ConfigurationError:
        return None
    try:
        text = path.read_text()
    except FileNotFoundError:
        if named is None:
            return None
        raise ConfigurationError(f"there is no token file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(f"cannot read the token file {path}: {why}") from error
    return Token(value=_checked(text.strip(), where=str(path)), named=named is not None)


def _checked(token: str, *, where: str) -> str:
    """Check a token. It travels in a header, so it is printable ASCII without spaces."""
    if not _TOKEN.fullmatch(token):
        raise ConfigurationError(f"{where} is no token: expected printable characters without spaces")
    return token
