"""The names in a client's certificate, read from the certificate itself.

gRPC's Python API hands them over as C strings, cut at the first NUL: `boss` for a certificate that its authority has
signed for `boss\\0.customer.example.org`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

_BLOCK: Final = re.compile(rb"-----BEGIN CERTIFICATE-----([^-]*)-----END CERTIFICATE-----")
_SEQUENCE: Final = 0x30
_OID: Final = 0x06
_OCTETS: Final = 0x04
_EXTENSIONS: Final = 0xA3
_DNS: Final = 0x82
_URI: Final = 0x86
_ALTERNATIVE_NAMES: Final = b"\x55\x1d\x11"
"""2.5.29.17."""


@lru_cache(maxsize=1024)
def names_of(pem: bytes) -> tuple[str, ...]:
    """URIs, then DNS names, each in their order; none where the certificate cannot be read.

    What is no DNS name, though it stands for one, is left out: it must not be taken for a URI.
    """
    block = _BLOCK.search(pem)
    if block is None:
        return ()
    try:
        found = list(_alternative_names(base64.b64decode(block[1])))
    except ValueError:
        return ()
    uris = [value.decode("ascii", "replace") for tag, value in found if tag == _URI]
    dns = [value.decode("ascii", "replace") for tag, value in found if tag == _DNS]
    return (*uris, *(name for name in dns if ":" not in name and "/" not in name))


def _alternative_names(certificate: bytes) -> Iterator[tuple[int, bytes]]:
    (whole,) = _of(_SEQUENCE, certificate)
    signed = next(_of(_SEQUENCE, whole), b"")
    for wrapped in _of(_EXTENSIONS, signed):
        for extensions in _of(_SEQUENCE, wrapped):
            for extension in _of(_SEQUENCE, extensions):
                if next(_of(_OID, extension), b"") == _ALTERNATIVE_NAMES:
                    for octets in _of(_OCTETS, extension):
                        for names in _of(_SEQUENCE, octets):
                            yield from _parts(names)


def _of(tag: int, data: bytes) -> Iterator[bytes]:
    return (content for found, content in _parts(data) if found == tag)


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of what stands one after the other. Raises ValueError for what is no DER."""
    at = 0
    while at < len(data):
        if len(data) < at + 2:
            raise ValueError("cut")
        tag, length, at = data[at], data[at + 1], at + 2
        if length >= 0x80:
            more = length - 0x80
            length, at = int.from_bytes(data[at : at + more], "big"), at + more
        if tag & 0x1F == 0x1F or at + length > len(data):
            raise ValueError("no DER")
        yield tag, data[at : at + length]
        at += length
