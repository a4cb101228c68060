"""Certificates made for one test: an authority, and what it signs. Of elliptic curves: they are made at once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme
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
        self._ca = trustme.CA(organization_name=name)
        self.certificate: bytes = self._ca.cert_pem.bytes()
        """PEM."""

    def server(self, *names: str, expired: bool = False) -> Pair:
        """Make the pair of a server with these names or addresses; without any: localhost and 127.0.0.1."""
        ends = dt.datetime.now(dt.UTC) - DAY if expired else None
        names = names or ("localhost", "127.0.0.1", "::1")
        made = self._ca.issue_cert(*names, common_name="server", not_after=ends)
        return Pair(made.cert_chain_pems[0].bytes(), made.private_key_pem.bytes())

    def client(
        self, *, dns: str = "", uri: str = "", email: str = "", name: str = "client", expired: bool = False
    ) -> Pair:
        """Make the pair of a client with these names, which trustme would not all take."""
        names: list[x509.GeneralName] = [
            *([x509.DNSName(dns)] if dns else []),
            *([x509.UniformResourceIdentifier(uri)] if uri else []),
            *([x509.RFC822Name(email)] if email else []),
        ]
        return self._sign([name], x509.SubjectAlternativeName(names) if names else None, expired=expired)

    def odd_client(self, *, names: bytes, common_names: Sequence[str] = ()) -> Pair:
        """Make the pair of a client whose extension of alternative names is just these bytes."""
        odd = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, names)
        return self._sign(common_names, odd)

    def _sign(self, common_names: Sequence[str], names: x509.ExtensionType | None, *, expired: bool = False) -> Pair:
        authority = x509.load_pem_x509_certificate(self.certificate)
        signing = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(signing, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each) for each in common_names]))
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now + (-DAY if expired else 90 * DAY))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return Pair(
            builder.sign(signing, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
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
