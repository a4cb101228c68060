"""Certificates made for one test: an authority, and what it signs. Of elliptic curves: they are made at once."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID

DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write the pair as NAME.crt and NAME.key, each replaced at once."""
        paths = folder / f"{name}.crt", folder / f"{name}.key"
        for path, content in zip(paths, (self.certificate, self.key), strict=True):
            replace(path, content)
        return paths


def replace(path: Path, content: bytes) -> None:
    """The whole new content or the old one, as tools that renew certificates do it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(content)
    fresh.rename(path)


class Authority:
    """Signs certificates."""

    def __init__(self, name: str = "Longshore's tests") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        builder = _builder(self._name, self._name, self._key.public_key(), starts=-DAY, ends=90 * DAY)
        self._certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True).sign(
            self._key, hashes.SHA256()
        )

    @property
    def certificate(self) -> bytes:
        """PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def server(self, *names: str, expired: bool = False) -> Pair:
        """Make the pair of a server with these names or addresses; without any: localhost and 127.0.0.1."""
        sans = [_address_or_dns(name) for name in names or ("localhost", "127.0.0.1", "::1")]
        return self._sign(_name("server"), sans, expired=expired)

    def client(
        self, *, dns: str = "", uri: str = "", email: str = "", name: str = "client", expired: bool = False
    ) -> Pair:
        """Make the pair of a client with these names."""
        sans: list[x509.GeneralName] = []
        if dns:
            sans.append(x509.DNSName(dns))
        if uri:
            sans.append(x509.UniformResourceIdentifier(uri))
        if email:
            sans.append(x509.RFC822Name(email))
        return self._sign(_name(name), sans, expired=expired)

    def odd_client(self, *, names: bytes, common_names: Sequence[str] = ()) -> Pair:
        """Make the pair of a client whose extension of alternative names is just these bytes."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each) for each in common_names])
        return self._sign(subject, [], names=names)

    def _sign(
        self, subject: x509.Name, sans: list[x509.GeneralName], *, names: bytes | None = None, expired: bool = False
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        starts, ends = (-2 * DAY, -DAY) if expired else (-DAY, 90 * DAY)
        builder = _builder(subject, self._name, key.public_key(), starts=starts, ends=ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), False)
        elif names is not None:
            odd = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, names)
            builder = builder.add_extension(odd, False)
        signed = builder.sign(self._key, hashes.SHA256())
        return Pair(
            signed.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )


def encrypted(pair: Pair) -> Pair:
    """The same with a key that asks for a password."""
    key = serialization.load_pem_private_key(pair.key, None)
    sealed = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    return Pair(pair.certificate, sealed)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _address_or_dns(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *,
    starts: dt.timedelta,
    ends: dt.timedelta,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
    )
