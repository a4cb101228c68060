"""The names in a certificate: all of them, whole, and none of what cannot be read."""

from __future__ import annotations

import base64
import random
import re
import ssl
import warnings

import pytest

from longshore.server.edge.auth.certificates import names_of
from tests.support.servers.certificates import Authority


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def test_uris_come_before_dns_names_and_other_sorts_are_none(authority: Authority) -> None:
    pair = authority.client(dns="ci.example.org", uri="spiffe://example.org/ci", email="ci@example.org")
    assert names_of(pair.certificate) == ("spiffe://example.org/ci", "ci.example.org")
    assert names_of(authority.client(email="ci@example.org").certificate) == ()
    assert names_of(authority.client().certificate) == ()
    names = tuple(f"n{number}.example.org" for number in range(300))
    assert names_of(authority.server(*names, "127.0.0.1").certificate) == names


@pytest.mark.parametrize("length", [1, 127, 128, 255, 256, 70_000])
def test_names_of_any_length_are_read(authority: Authority, length: int) -> None:
    assert names_of(authority.client(uri="u" * length).certificate) == ("u" * length,)


def test_an_odd_serial_number_is_not_commented_on(authority: Authority) -> None:
    der = ssl.PEM_cert_to_DER_cert(authority.client(uri="spiffe://example.org/ci").certificate.decode())
    # The first byte of the serial number, behind the version.
    odd = re.sub(rb"(\xa0\x03\x02\x01\x02\x02.).", lambda found: found[1] + b"\x81", der, count=1, flags=re.DOTALL)
    assert odd != der
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names_of(ssl.DER_cert_to_PEM_cert(odd).encode()) == ("spiffe://example.org/ci",)


def test_a_nul_does_not_end_a_name(authority: Authority) -> None:
    assert names_of(authority.client(dns="boss\0.example.org").certificate) == ("boss\0.example.org",)


def test_a_uri_is_not_taken_for_a_dns_name(authority: Authority) -> None:
    assert names_of(authority.client(dns="spiffe://example.org/ci").certificate) == ()


def test_an_unreadable_certificate_has_no_names(authority: Authority) -> None:
    whole = authority.client(dns="ci.example.org").certificate
    der = base64.b64decode(b"".join(whole.splitlines()[1:-1]))
    chance = random.Random(7)
    for end in range(len(der)):
        spoiled = bytearray(der[:end])
        assert names_of(_pem(bytes(spoiled))) == ()
        changed = bytearray(der)
        changed[end] = chance.randrange(256)
        names_of(_pem(bytes(changed)))  # whatever it reads, it comes to an end
    for nothing in (b"", b"nothing", _pem(b""), b"-----BEGIN CERTIFICATE-----\n=\n-----END CERTIFICATE-----"):
        assert names_of(nothing) == ()


URI, DNS, MAIL, ADDRESS, PARTY = 0x86, 0x82, 0x81, 0x87, 0xA5
GOOD = b"spiffe://example.org/ci"


def der(*names: tuple[int, bytes]) -> bytes:
    """Encode alternative names of any content, each at most 127 bytes long."""
    parts = [bytes([tag, len(content)]) + content for tag, content in names]
    return bytes([0x30, len(b"".join(parts))]) + b"".join(parts)


@pytest.mark.parametrize(
    ("names", "read"),
    [
        pytest.param(der(), (), id="no names"),
        pytest.param(der((URI, b""), (URI, GOOD)), ("", GOOD.decode()), id="an empty name"),
        pytest.param(der((URI, GOOD + b"\0x")), (GOOD.decode() + "\0x",), id="a NUL"),
        pytest.param(der((DNS, "bücher.example.org".encode())), ("bücher.example.org",), id="a name beyond ASCII"),
        pytest.param(
            der((MAIL, "ü@example.org".encode()), (URI, GOOD)), (GOOD.decode(),), id="an address beyond ASCII"
        ),
        pytest.param(der((URI, GOOD), (URI, b"\xff\xfe")), (), id="a name that is no text"),
        pytest.param(der((URI, GOOD), (ADDRESS, b"abc")), (), id="an IP address of three bytes"),
        pytest.param(der((URI, GOOD), (PARTY, b"")), (), id="a kind of name that nobody uses"),
        pytest.param(der((URI, GOOD)) + b"\0\0", (), id="more after the names"),
        pytest.param(der((URI, GOOD))[:-1], (), id="names that are cut"),
        pytest.param(b"", (), id="no sequence"),
    ],
)
def test_of_odd_names_all_are_read_or_none(authority: Authority, names: bytes, read: tuple[str, ...]) -> None:
    assert names_of(authority.odd_client(names=names).certificate) == read


def test_common_names_are_no_names(authority: Authority) -> None:
    common = ("ci.example.org", "boss.example.org")
    assert names_of(authority.odd_client(names=der(), common_names=common).certificate) == ()
    assert names_of(authority.odd_client(names=der((URI, GOOD)), common_names=common).certificate) == (GOOD.decode(),)


def test_two_extensions_with_names_have_none(authority: Authority) -> None:
    whole = authority.client(uri=GOOD.decode()).certificate
    once = base64.b64decode(b"".join(whole.splitlines()[1:-1]))
    # The other extension of these certificates, basicConstraints, becomes one with names.
    basic_constraints, alternative_names = b"\x55\x1d\x13", b"\x55\x1d\x11"
    assert once.count(basic_constraints) == 1
    assert names_of(_pem(once.replace(basic_constraints, alternative_names))) == ()


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(der) + b"\n-----END CERTIFICATE-----\n"
