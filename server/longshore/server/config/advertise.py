"""This module finds the advertised address: workers download payloads from this very server there, past any
balancer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from longshore.server.config.settings import (
    Settings,
    SettingsError,
    check_listeners,
    is_exposed,
    is_port,
    is_unix,
)

_ANYWHERE: Final = frozenset({"0.0.0.0", "::", "", "0"})


def check_advertised(settings: Settings) -> None:
    """Raise SettingsError where the address is wrong, or none is given and none can be guessed."""
    given = settings.advertise
    if not given:
        address = advertised(settings, check_listeners(settings))
        # A folder may be on this machine only; an object store is everybody's.
        if settings.database.shared and _is_folder(settings.spool) and _is_anywhere(address):
            raise SettingsError(
                f"--listen {address}: stands for every address of this machine. Give with --advertise HOST:PORT the "
                "address of this server itself, past any balancer: workers download payloads from its spool there."
            )
        return
    if is_unix(given):
        if not given.removeprefix("unix:").startswith("/"):
            raise SettingsError(
                f"--advertise {given}: give an absolute path, as in unix:/run/longshore/longshore.sock."
            )
        return
    host, colon, port = given.rpartition(":")
    if not colon or not is_port(port) or int(port) == 0 or not host or "," in given:
        raise SettingsError(f"--advertise {given}: write HOST:PORT or unix:PATH, as in server1.example.org:7465.")
    if _is_anywhere(given):
        raise SettingsError(f"--advertise {given}: no worker can connect to {host}; give a name or an address.")


def advertised(settings: Settings, addresses: Sequence[str]) -> str:
    """Return the address that was given, else of those where the server listens the one that reaches farthest."""
    if settings.advertise:
        return settings.advertise
    exposed = [address for address in addresses if is_exposed(address)]
    named = [address for address in exposed if not _is_anywhere(address)]
    return (named or exposed or list(addresses))[0]


def _is_anywhere(address: str) -> bool:
    return not is_unix(address) and address.rpartition(":")[0].strip("[]") in _ANYWHERE


def _is_folder(spool: str) -> bool:
    return urlsplit(spool).scheme in ("", "file")
