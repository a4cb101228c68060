"""Sizes, durations and access as people write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from longshore.program import durations
from longshore.server.config.settings import SettingsError, TlsFiles
from longshore.server.model.access import Role, check_name, parse_roles

_BYTES: Final = {
    "": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "kb": 1000, "m": 1 << 20, "mib": 1 << 20, "mb": 1000**2,
    "g": 1 << 30, "gib": 1 << 30, "gb": 1000**3, "t": 1 << 40, "tib": 1 << 40, "tb": 1000**4,
}  # fmt: skip
_LARGEST: Final = 1 << 52
"""Bytes: fits into every database's integer, and into a float."""
_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def parse_duration(option: str, text: str, *, least: float = 0.0) -> float:
    """Read the seconds of `90`, `30s`, `5m`, `2h`, `7d`, `500ms`, or of several of them as in `1h30m`. Raises
    SettingsError."""
    try:
        seconds = durations.parse_duration(text, bare=True)
    except ValueError as error:
        raise SettingsError(f"{option} {text[:80]}: {error}.") from None
    if seconds < least:
        raise SettingsError(f"{option} {text[:80]}: must be at least {least:g}s.")
    return seconds


def parse_size(option: str, text: str) -> int:
    """Read the bytes of `1048576`, `500MiB`, `10GB`, `2g` (binary unless written MB, GB, TB). Raises SettingsError."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2].lower() not in _BYTES:
        raise SettingsError(f"{option} {text}: write a size such as 500MiB or 10GiB.")
    size = float(match[1]) * _BYTES[match[2].lower()]
    if size > _LARGEST:
        raise SettingsError(f"{option} {text[:80]}: at most 4096TiB.")
    return int(size)


def parse_tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    """Make TlsFiles of the three options. None means that no TLS is asked for. Raises SettingsError."""
    if certificate is None or key is None:
        for option, given, missing in (
            ("--tls-cert", certificate, "--tls-key"),
            ("--tls-key", key, "--tls-cert"),
            ("--tls-client-ca", client_ca, "--tls-cert and --tls-key"),
        ):
            if given is not None:
                raise SettingsError(f"{option} {given}: give {missing} too.")
        return None
    return TlsFiles(
        certificate=certificate.absolute(),
        key=key.absolute(),
        client_ca=None if client_ca is None else client_ca.absolute(),
    )


def parse_client_roles(words: Sequence[str], *, client_ca: bool) -> dict[str, frozenset[Role]]:
    """Read roles by name of a client certificate, each from `NAME=ROLE[,ROLE]`. Raises SettingsError."""
    found: dict[str, frozenset[Role]] = {}
    for word in words:
        name, equals, roles = word.rpartition("=")
        if not equals:
            raise SettingsError(f"--client-role {word}: write NAME=ROLE, as in spiffe://example.org/worker=work.")
        try:
            check_name(name)
            if name in found:
                raise ValueError(f"{name} is given twice; write its roles with commas.")
            found[name] = parse_roles(roles.split(","))
        except ValueError as error:
            raise SettingsError(f"--client-role {word}: {error}") from None
    if found and not client_ca:
        raise SettingsError("--client-role: clients show certificates with --tls-client-ca FILE only; give that too.")
    return found
