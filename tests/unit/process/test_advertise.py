"""A server tells the address at which workers reach it: given, or guessed where that can be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from longshore.server.config.advertise import advertised, check_advertised
from longshore.server.config.settings import DatabaseURL, Settings, SettingsError, TlsFiles

TLS = TlsFiles(certificate=Path("/c"), key=Path("/k"))
POSTGRES = DatabaseURL("postgresql://db/longshore")


def settings(**more: Any) -> Settings:
    return Settings(data_dir=Path("/data"), tls=TLS, **more)


@pytest.mark.parametrize(
    ("addresses", "guessed"),
    [
        (("127.0.0.1:7465",), "127.0.0.1:7465"),
        (("unix:/run/l.sock",), "unix:/run/l.sock"),
        (("unix:/run/l.sock", "10.0.0.5:7465"), "10.0.0.5:7465"),
        (("0.0.0.0:7465", "server1.example.org:7466"), "server1.example.org:7466"),
        (("[2001:db8::5]:7465", "127.0.0.1:7465"), "[2001:db8::5]:7465"),
    ],
)
def test_the_address_that_reaches_farthest_is_guessed(addresses: tuple[str, ...], guessed: str) -> None:
    chosen = settings(listen=addresses, database=POSTGRES)
    check_advertised(chosen)
    assert advertised(chosen, addresses) == guessed
    assert advertised(settings(advertise="s1:1"), addresses) == "s1:1"


@pytest.mark.parametrize("anywhere", ["0.0.0.0:7465", "[::]:7465"])
def test_every_address_is_none(anywhere: str) -> None:
    for spool in ("", "file:///srv/spool"):
        with pytest.raises(SettingsError, match="--advertise HOST:PORT"):
            check_advertised(settings(listen=(anywhere,), database=POSTGRES, spool=spool))
    check_advertised(settings(listen=(anywhere,)))  # SQLite: nobody asks
    check_advertised(settings(listen=(anywhere,), database=POSTGRES, spool="s3://bucket"))
    check_advertised(settings(listen=(anywhere,), database=POSTGRES, advertise="10.0.0.5:7465"))
    with pytest.raises(SettingsError, match="no worker can connect"):
        check_advertised(settings(listen=(anywhere,), database=POSTGRES, advertise=anywhere))


@pytest.mark.parametrize(
    "wrong", ["server1", "server1:", ":7465", "server1:0", "server1:99999", "server1:²", "a:1,b:2", "unix:run"]
)
def test_an_invalid_address_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match="--advertise"):
        check_advertised(settings(advertise=wrong))


@pytest.mark.parametrize("right", ["server1:7465", "[2001:db8::5]:1", "unix:/run/l.sock"])
def test_addresses_are_taken(right: str) -> None:
    check_advertised(settings(advertise=right))
