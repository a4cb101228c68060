"""The names in a client's certificate, read from the certificate itself.

gRPC's Python API hands them over as C strings, cut at the first NUL: `boss` for a certificate that its authority has
signed for `boss\\0.customer.example.org`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache


@contextmanager
def without_warnings() -> Iterator[None]:
    """Leave out the warnings by which cryptography comments on odd certificates, such as one with the serial number 0.
    Python would print them, with a line of source, between the records of the log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@lru_cache(maxsize=1024)
def names_of(pem: bytes) -> tuple[str, ...]:
    """Return the certificate's URIs, then its DNS names, each in their order.

    A certificate with any part that cannot be read has no names. A DNS name that looks like a URI is left out: it must
    not be taken for one. Reading takes 12 µs, and each call of a connection shows the same certificate, so the result
    is remembered.
    """
    # A server that asks its clients for no certificates does without this import, which takes 80 ms.
    from cryptography import x509

    try:
        with without_warnings():
            extensions = x509.load_pem_x509_certificate(pem).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (
        ValueError,
        x509.DuplicateExtension,
        x509.ExtensionNotFound,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    ):
        return ()
    dns = names.get_values_for_type(x509.DNSName)
    return (
        *names.get_values_for_type(x509.UniformResourceIdentifier),
        *(name for name in dns if ":" not in name and "/" not in name),
    )
