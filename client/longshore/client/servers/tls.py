"""This module sets up a client's TLS, reads its files anew, and explains failed handshakes."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import grpc

from longshore.client.errors import ConfigurationError, LongshoreError, TLSError, Unavailable

Stamp: TypeAlias = tuple[tuple[int, int, int] | None, ...]
"""A stamp tells whether files were replaced: it has the inode, size and time of each."""

_SYSTEM_ROOTS: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_PROBE: Final = 2.0
"""Seconds for a server to show what it speaks."""
_NO: Final = frozenset({"", "0", "no", "false", "off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """These settings say which certificates of servers are trusted, and which one servers are shown. `TLS()` alone is
    TLS with the system's roots.

    Files are PEM and are read anew for each connection, so that certificates can be replaced while a client runs.
    """

    ca: str | os.PathLike[str] | None = None
    """This file has the CAs that a server's certificate must come from. None means the CAs that this system trusts."""
    cert: str | os.PathLike[str] | None = None
    """This file has the client's own certificate, with those between it and its CA, for servers that ask for one."""
    key: str | os.PathLike[str] | None = None
    """This file has the private key of `cert`, unencrypted."""
    server_name: str = ""
    """The server's certificate must have this name. An empty name means the host of the address."""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            given, missing = ("--tls-cert", "--tls-key") if self.key is None else ("--tls-key", "--tls-cert")
            raise ConfigurationError(f"{given} goes with {missing}: give both files, or neither")

    def stamp(self) -> Stamp:
        """Return the stamp of the files: another value than before means that a file was replaced. Cheap."""
        return tuple(_stamp(file) for file in (self.ca, self.cert, self.key))

    def credentials(self) -> grpc.ChannelCredentials:
        """Make the credentials of a new channel from the files as they are now. Raises ConfigurationError."""
        roots = _read(self.ca, "--tls-ca") if self.ca is not None else _system_roots()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca is not None:
            _load_roots(context, self.ca)
        self._load_own(context)
        key = _read(self.key, "--tls-key") if self.key is not None else None
        chain = _read(self.cert, "--tls-cert") if self.cert is not None else None
        return grpc.ssl_channel_credentials(root_certificates=roots, private_key=key, certificate_chain=chain)

    def context(self) -> ssl.SSLContext:
        """Make the context for Python's own sockets, which does not check the server. Raises ConfigurationError."""
        context = _unchecked()
        self._load_own(context)
        return context

    def _load_own(self, context: ssl.SSLContext) -> None:
        if self.cert is None or self.key is None:
            return
        _read(self.cert, "--tls-cert")
        _read(self.key, "--tls-key")
        try:
            # Without a password Python would ask for one on the terminal.
            context.load_cert_chain(self.cert, self.key, password=lambda: "")
        except (ssl.SSLError, OSError) as error:
            raise ConfigurationError(
                f"--tls-cert {self.cert}, --tls-key {self.key}: not a certificate and its own unencrypted key in PEM "
                f"({_said(error)})"
            ) from error


def find_tls(
    *,
    tls: bool = False,
    ca: str | os.PathLike[str] | None = None,
    cert: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    server_name: str = "",
    environ: Mapping[str, str] = os.environ,
) -> TLS | None:
    """TLS as options and environment say: $LONGSHORE_TLS (1 or 0), $LONGSHORE_TLS_CA, _CERT, _KEY and _SERVER_NAME.

    An option beats its variable; a certificate comes with its key from the same place. None: nothing asks for TLS.
    Raises ConfigurationError.
    """
    wanted = tls or environ.get("LONGSHORE_TLS", "").lower() not in _NO
    ca = ca or environ.get("LONGSHORE_TLS_CA") or None
    if cert is None and key is None:
        cert, key = environ.get("LONGSHORE_TLS_CERT") or None, environ.get("LONGSHORE_TLS_KEY") or None
    server_name = server_name or environ.get("LONGSHORE_TLS_SERVER_NAME", "")
    if not (wanted or ca or cert or key or server_name):
        return None
    return TLS(ca=ca, cert=cert, key=key, server_name=server_name)


# What a failed handshake means ----------------------------------------------------------------------------------------

_REMEDIES: Final[Mapping[str, tuple[str, str]]] = {
    "WRONG_VERSION_NUMBER": (
        "TLS_NOT_SPOKEN",
        "it does not speak TLS. Leave out the --tls options if it is on this machine, else give it a certificate",
    ),
    "Hostname Verification Check failed": (
        "TLS_WRONG_NAME",
        "its certificate is for another name. Use a name that stands in it, or give that name with --tls-server-name",
    ),
    "certificate has expired": ("TLS_EXPIRED", "its certificate has expired. Renew it on the server"),
    "certificate is not yet valid": ("TLS_EXPIRED", "its certificate is not valid yet. Compare the clocks"),
    "CERTIFICATE_VERIFY_FAILED": (
        "TLS_UNKNOWN_CA",
        "its certificate does not come from an authority that is trusted here. Name its CA's file with --tls-ca",
    ),
    "Failed to create security handshaker": (
        "TLS_FILES",
        "the certificates given for it cannot be used. Look at the files of --tls-ca, --tls-cert and --tls-key",
    ),
}
"""Maps parts of gRPC's messages, in this order, to the reason, and to what is wrong and what to do."""

_MUTE: Final = re.compile(r"failed to connect to all addresses.*(Socket closed|Connection reset by peer|Broken pipe)")
"""The connection stood and the other side closed it before a word was said: no message tells why."""


def explained(error: LongshoreError, *, address: str) -> LongshoreError:
    """Return the same error, or a TLSError when the message tells that the handshake failed."""
    if not isinstance(error, Unavailable) or error.from_server:
        return error
    for sign, (reason, remedy) in _REMEDIES.items():
        if sign in error.message:
            return TLSError(f"the server at {address} cannot be trusted or understood: {remedy}", reason=reason)
    return error


def closed_mutely(error: LongshoreError) -> bool:
    """Return whether the server closed the new connection without a word. Then only a probe tells whether TLS is the
    cause."""
    return isinstance(error, Unavailable) and not error.from_server and _MUTE.search(error.message) is not None


def probe(host: str, port: int, tls: TLS | None, *, address: str) -> TLSError | None:
    """Find out whether TLS is why the server closes new connections. Blocks for a few seconds at most.

    Either the server speaks TLS and the client does not, or it wants a certificate, or another one than it was shown.
    With TLS 1.3 a refusal of ours comes when the handshake is over already.
    """
    try:
        context = tls.context() if tls is not None else _unchecked()
        # Twice: a server that is being killed closes connections too, and takes no second one.
        why = [_closed_after_handshake(context, host, port) for _ in range(1 if tls is None else 2)][-1]
    except (OSError, ConfigurationError):
        return None
    if tls is None:
        return TLSError(
            f"the server at {address} expects TLS, and the client did not use it. Give --tls-ca with its CA's file, or "
            "--tls if this system trusts it",
            reason="TLS_REQUIRED",
        )
    if why is None:
        return None
    shown = "does not take our certificate" if tls.cert is not None else "wants a certificate of ours"
    return TLSError(
        f"the server at {address} {shown}. Give one that it knows and that has not expired with --tls-cert and "
        f"--tls-key{why}",
        reason="TLS_CLIENT_CERTIFICATE",
    )


def _closed_after_handshake(context: ssl.SSLContext, host: str, port: int) -> str | None:
    """Ask a server whether it refuses us after a handshake that went well, and return the reason that it gives.

    None means that it does not refuse us, and has begun to talk HTTP/2. An empty text means that it gives no reason.

    With TLS 1.3 our certificate is looked at last. Servers then send an alert, or, as gRPC's do, say nothing at all.
    Raises OSError when there is no connection, or no TLS.
    """
    with (
        socket.create_connection((host, port), timeout=_PROBE) as plain,
        context.wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        try:
            return None if wrapped.recv(1) else ""
        except ssl.SSLError as error:
            return f" ({_said(error)})"
        except ConnectionResetError:
            return ""


def _unchecked() -> ssl.SSLContext:
    """Make a context that checks no certificate. Nothing is sent over a connection that is made with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def _system_roots() -> bytes | None:
    """Return the CAs that this system trusts. None lets gRPC use the list that it carries."""
    if os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"):
        return None  # gRPC reads that by itself.
    places = (os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, *_SYSTEM_ROOTS)
    for place in places:
        if place and Path(place).is_file():
            return Path(place).read_bytes()
    return None


def _load_roots(context: ssl.SSLContext, file: str | os.PathLike[str]) -> None:
    try:
        context.load_verify_locations(cafile=file)
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(f"--tls-ca {file}: no certificates in PEM ({_said(error)})") from error


def _read(file: str | os.PathLike[str], option: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{option} {file}: cannot be read: {error.strerror}") from error


def _stamp(file: str | os.PathLike[str] | None) -> tuple[int, int, int] | None:
    if file is None:
        return None
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _said(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error)
