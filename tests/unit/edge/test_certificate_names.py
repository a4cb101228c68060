"""The names in a certificate: all of them, whole, and none of what cannot be read."""

from __future__ import annotations

import base64
import random

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


def test_a_nul_does_not_end_a_name(authority: Authority) -> None:
    assert names_of(authority.client(dns="boss\0.example.org").certificate) == ("boss\0.example.org",)


def test_what_looks_like_a_uri_is_no_dns_name(authority: Authority) -> None:
    assert names_of(authority.client(dns="spiffe://example.org/ci").certificate) == ()


def test_what_cannot_be_read_has_no_names(authority: Authority) -> None:
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


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(der) + b"\n-----END CERTIFICATE-----\n"
