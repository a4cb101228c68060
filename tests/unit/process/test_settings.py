"""Options: what they accept, and errors that name the option and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from longshore.server.config.settings import (
    DatabaseURL,
    SettingsError,
    check_listen,
    spool_path,
    way_in,
    without_password,
)
from longshore.server.config.values import parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("7d", 604800),
        ("500ms", 0.5),
        ("1h30m", 5400),
        ("0", 0),
        (" 5 m ", 300),
        ("1h30", 3630),
        ("0.3", 0.3),
        (".5", 0.5),
        ("1w", 604800),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration("--lease", text) == seconds


@pytest.mark.parametrize("text", ["", "s", "5x", "-3s", "5m;3", "1h30x", "now"])
def test_a_wrong_duration_names_its_option(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--lease .*30s"):
        parse_duration("--lease", text)


def test_a_duration_below_the_least_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least 1s"):
        parse_duration("--lease", "10ms", least=1.0)


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("4096", 4096), ("1KiB", 1024), ("1kB", 1000), ("256MiB", 1 << 28), ("1.5g", 3 << 29)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size("--spool-limit", text) == size


def test_a_wrong_size_names_its_option() -> None:
    with pytest.raises(SettingsError, match="--spool-limit lots"):
        parse_size("--spool-limit", "lots")


@pytest.mark.parametrize("address", ["127.0.0.1:7465", "127.9.9.9:0", "localhost:1", "[::1]:80", "unix:/run/l.sock"])
def test_loopback_and_unix_sockets_are_served(address: str) -> None:
    assert check_listen(address) == address


@pytest.mark.parametrize("address", ["0.0.0.0:7465", "[::]:7465", "10.0.0.1:7465", "example.org:7465", ":7465"])
def test_any_other_address_is_refused_with_the_reason(address: str) -> None:
    with pytest.raises(SettingsError, match="TLS"):
        check_listen(address)


@pytest.mark.parametrize("address", ["0.0.0.0:7465", "[::]:7465", "10.0.0.1:7465", "example.org:7465", "127.0.0.1:1"])
def test_with_tls_any_address_is_served(address: str) -> None:
    assert check_listen(address, tls=True) == address


def test_a_worker_without_certificates_takes_a_plain_listener() -> None:
    both = ("0.0.0.0:7465", "unix:/run/l.sock")
    assert way_in(both, tls=True) == way_in(both, tls=False) == "unix:/run/l.sock"
    assert way_in(("127.0.0.1:7465",), tls=False) == "127.0.0.1:7465"
    with pytest.raises(SettingsError, match="--listen unix:"):
        way_in(("127.0.0.1:7465",), tls=True)


@pytest.mark.parametrize(
    "address",
    [
        "7465", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:70000", "unix:relative.sock", "127.0.0.1:²", "127.0.0.1:٣",
        "127.0.0.1:" + "1" * 5000, "::1:7465", "::7465", "[::1:7465", "ipv4:127.0.0.1:7465",
    ],
)  # fmt: skip
def test_an_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="--listen"):
        check_listen(address)


def test_a_unix_path_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SettingsError, match="107"):
        check_listen("unix:/" + "x" * 107)


def test_a_postgresql_database_is_shared_and_no_other() -> None:
    shared = ("postgresql://ci@db/x", "postgres://db/x", "postgresql:///x?host=a,b")
    assert [DatabaseURL(text).shared for text in shared] == [True, True, True]
    assert [DatabaseURL(text).shared for text in ("", "sqlite:////srv/l.db", "mysql://h/d")] == [False] * 3


def test_database_and_spool_urls() -> None:
    assert DatabaseURL().file(Path("/d")) == Path("/d")
    assert DatabaseURL("sqlite:////srv/l.db").file(Path("/d")) == Path("/srv/l.db")
    assert spool_path("file:///srv/spool", Path("/d")) == Path("/srv/spool")
    with pytest.raises(SettingsError, match="sqlite:///PATH"):
        DatabaseURL("mysql://h/d").file(Path("/d"))
    with pytest.raises(SettingsError, match="file:///PATH"):
        spool_path("s3://bucket", Path("/d"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ci:hunter2@db.example.org:5432/x", "postgresql://ci:***@db.example.org:5432/x"),
        ("postgresql://ci:hun/ter2@db/x", "postgresql://ci:***@db/x"),
        ("postgresql://ci:hun#ter2@db/x", "postgresql://ci:***@db/x"),
        ("postgresql://ci:hun?ter2@db/x", "postgresql://ci:***@db/x"),
        ("postgresql://ci:hun@ter2@db/x", "postgresql://ci:***@db/x"),
        ("postgresql:ci:hunter2@db/x", "postgresql:ci:***@db/x"),
        ("postgresql://db:5432/x?user=ci&password=hunter2&sslmode=require",
         "postgresql://db:5432/x?user=ci&password=***&sslmode=require"),
        ("postgresql:///x?PASSWORD=hun#ter2", "postgresql:///x?PASSWORD=***"),
        ("postgresql:///x?sslpassword=hunter2", "postgresql:///x?sslpassword=***"),
        ("host=db password=hunter2 user=ci", "host=db password=*** user=ci"),
        (r"host=db password = 'hun\'ter2 x' user=ci", "host=db password = *** user=ci"),
        ("postgresql://db:5432/x", "postgresql://db:5432/x"),
        ("postgresql://ci@db:5432/x?host=a:1,b:2", "postgresql://ci@db:5432/x?host=a:1,b:2"),
        ("sqlite:////srv/longshore.db", "sqlite:////srv/longshore.db"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
    ],
)  # fmt: skip
def test_no_password_is_shown_not_even_of_a_url_that_is_none(url: str, shown: str) -> None:
    assert without_password(url) == shown
