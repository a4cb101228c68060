"""This module reads and checks the certificates of the listeners, and reads them again when the files change.

gRPC asks for them at each handshake, so that open connections go on with the certificates that they began with.
"""

from __future__ import annotations

import asyncio
import math
import os
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import grpc
import structlog

from longshore.server.config.settings import SettingsError, TlsFiles
from longshore.server.edge.auth.certificates import names_of, without_warnings

_log = structlog.get_logger("longshore.tls")

LOOK: Final = 2.0
"""Seconds between looks at the files."""

ENDS_SOON: Final = 14
"""Days before the end of the server's certificate from which on the log warns of it, when it is read and then once a
day."""
_DAY: Final = 86400.0


class _Unusable(Exception):
    """The files cannot be used; the message names the option and the file."""


@dataclass(frozen=True, slots=True)
class _Content:
    """The content of the files. An empty `client_ca` means that clients show no certificate."""

    certificate: bytes
    key: bytes
    client_ca: bytes

    def __repr__(self) -> str:
        return "<certificate and key>"


class Certificates:
    """Holds the certificates of one server. `run` must run for new ones to be taken.

    Raises SettingsError when the files cannot be used at the start; later the last good ones are kept.
    """

    def __init__(self, files: TlsFiles, *, look: float = LOOK, wall: Callable[[], float] = time.time) -> None:
        self._files = files
        self._look = look
        self._wall = wall
        self._rejected: object = None
        try:
            content = _read(files)
            self._current = _checked(files, content)
        except _Unusable as error:
            raise SettingsError(str(error)) from None
        self._content = content
        self._tell("certificates_loaded")
        self._warn_if_it_ends()

    def credentials(self) -> grpc.ServerCredentials:
        """Make the credentials of one listener. Each listener needs its own: gRPC asks whether anything is new since it
        asked for that listener."""
        given = self._current

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            # In a thread of gRPC's, one call at a time for each listener. None, which the stub does not know of, is
            # "nothing new"; anything else costs a new TLS context.
            nonlocal given
            if self._current is given:
                return None
            given = self._current
            return given

        return grpc.dynamic_ssl_server_credentials(
            given,
            fetch,  # type: ignore[arg-type]
            require_client_authentication=self._files.client_ca is not None,
        )

    async def run(self) -> None:
        """Look for changed files until cancelled."""
        while True:
            await asyncio.sleep(self._look)
            await asyncio.to_thread(self.check_files)

    def check_files(self) -> None:
        """Take the content of the files, if it is new and can be used. Warn once a day of a certificate that ends."""
        self._take()
        self._warn_if_it_ends()

    def _take(self) -> None:
        rejected: object
        try:
            content = _read(self._files)
        except _Unusable as error:
            content, rejected, problem = None, str(error), str(error)
        else:
            if content == self._content:
                self._rejected = None
                return
            rejected, problem = content, ""
        if rejected == self._rejected:
            return  # said already
        if content is not None:
            try:
                self._current = _checked(self._files, content)
            except _Unusable as error:
                problem = str(error)
            else:
                self._content = content
                self._rejected = None
                self._tell("certificates_reloaded")
                return
        self._rejected = rejected
        _log.warning("certificates_not_reloaded", problem=problem, **self._told())

    def _tell(self, event: str) -> None:
        """Log the server's own certificate, which has just been read."""
        self._own = _own(self._content.certificate)
        self._warn_at = math.inf if self._own is None else self._own.ends - ENDS_SOON * _DAY
        _log.info(event, **self._told())

    def _warn_if_it_ends(self) -> None:
        if self._wall() >= self._warn_at:
            self._warn_at = self._wall() + _DAY
            _log.warning("certificate_ends_soon", **self._told())

    def _told(self) -> dict[str, object]:
        return {} if self._own is None else self._own.fields(self._wall())


def _read(files: TlsFiles) -> _Content:
    return _Content(
        certificate=_bytes("--tls-cert", files.certificate),
        key=_bytes("--tls-key", files.key),
        client_ca=b"" if files.client_ca is None else _bytes("--tls-client-ca", files.client_ca),
    )


def _bytes(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _Unusable(f"{option} {path}: cannot be read: {error.strerror}.") from None


def _checked(files: TlsFiles, content: _Content) -> grpc.ServerCertificateConfiguration:
    """Make the configuration that gRPC takes. gRPC checks nothing before the first handshake, so Python's own TLS
    does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if b"-----BEGIN CERTIFICATE-----" not in content.certificate:
        raise _Unusable(f"--tls-cert {files.certificate}: there is no certificate in it; PEM is wanted.")
    if b"PRIVATE KEY-----" not in content.key:
        raise _Unusable(f"--tls-key {files.key}: there is no private key in it; PEM is wanted.")
    try:
        with _as_file(content.certificate) as certificate, _as_file(content.key) as key:
            context.load_cert_chain(certificate, key, password=_no_password)
    except _Encrypted:
        raise _Unusable(f"--tls-key {files.key}: the key is encrypted; give one without a password.") from None
    except (ssl.SSLError, OSError, ValueError) as error:
        raise _Unusable(
            f"--tls-cert {files.certificate}, --tls-key {files.key}: damaged, or not of one another: {error}."
        ) from None
    if files.client_ca is not None:
        try:
            # The authorities are given as a file: as text, comments in other alphabets, which many bundles have, would
            # be a TypeError.
            with _as_file(content.client_ca) as authorities:
                context.load_verify_locations(cafile=authorities)
        except (ssl.SSLError, OSError) as error:
            raise _Unusable(f"--tls-client-ca {files.client_ca}: no CA certificates: {error}.") from None
    return grpc.ssl_server_certificate_configuration(
        [(content.key, content.certificate)], root_certificates=content.client_ca or None
    )


class _Encrypted(Exception):
    """Refuse a key that asks for a password."""


def _no_password() -> str:
    raise _Encrypted


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Provide a path of exactly these bytes, in memory. So what is checked is what is used, even if the files are
    written to now."""
    handle = os.memfd_create("longshore-tls", os.MFD_CLOEXEC)
    try:
        os.write(handle, content)
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class _Own:
    """The facts that the log tells of the server's own certificate. `ends` is in seconds of the wall clock."""

    fingerprint: str
    subject: str  # its first names, where the subject is empty
    ends: float

    def fields(self, now: float) -> dict[str, object]:
        """Return the fields of a log record. `certificate` is the SHA-256 as openssl and browsers show it, without
        colons; `days_left` is negative for a certificate that has ended."""
        return {
            "certificate": self.fingerprint,
            "subject": self.subject,
            "not_after": datetime.fromtimestamp(self.ends, UTC).isoformat(timespec="seconds"),
            "days_left": int((self.ends - now) // _DAY),
        }


def _own(pem: bytes) -> _Own | None:
    """Read the first certificate of a chain. None means that it cannot be read: OpenSSL, which has taken it, reads more
    forms than this does."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    with without_warnings():
        try:
            certificate = x509.load_pem_x509_certificate(pem)
        except (ValueError, x509.InvalidVersion):
            return None
        try:
            subject = certificate.subject.rfc4514_string()
        except (ValueError, TypeError):
            subject = ""  # TypeError: a part of it is no text
    return _Own(
        fingerprint=certificate.fingerprint(SHA256()).hex(),
        subject=subject or ", ".join(names_of(pem)[:3]),
        ends=certificate.not_valid_after_utc.timestamp(),
    )
