"""The client looks for the server and its token in several places, and refuses to send a token to some servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from longshore.client.errors import ConfigurationError
from longshore.client.servers import endpoint as module
from longshore.client.servers.endpoint import (
    Endpoint,
    credentials,
    default_data_dir,
    find_credential,
    find_token,
    parse_servers,
)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("127.0.0.1:7465", "127.0.0.1:7465"),
        ("localhost:1", "localhost:1"),
        ("127.8.9.1:65535", "127.8.9.1:65535"),
        ("[::1]:7465", "[::1]:7465"),
        ("unix:/run/longshore.sock", "unix:/run/longshore.sock"),
        ("unix:///run/longshore.sock", "unix:/run/longshore.sock"),
    ],
)
def test_addresses_on_this_machine(text: str, target: str) -> None:
    assert Endpoint.parse(text, environ={}).target == target


@pytest.mark.parametrize(
    "text",
    [
        "localhost",
        "localhost:",
        ":7465",
        "localhost:0",
        "localhost:65536",
        "localhost:http",
        "::1:7465",
        "unix:",
        "a b:1",
    ],
)
def test_invalid_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Endpoint.parse(text, environ={})


@pytest.mark.parametrize(
    ("text", "local", "name"),
    [
        ("127.0.0.1:7465", True, False),
        ("[::1]:7465", True, False),
        ("localhost:7465", True, False),
        ("unix:/run/s", True, False),
        ("10.0.0.1:7465", False, False),
        ("[2001:db8::1]:7465", False, False),
        ("0.0.0.0:7465", False, False),
        ("example.org:7465", False, True),
        ("localhost.example.org:7465", False, True),
    ],
)
def test_local_addresses_and_names_to_look_up_are_told_apart(text: str, local: bool, name: bool) -> None:
    endpoint = Endpoint.parse(text, environ={})
    assert (endpoint.is_local, endpoint.is_name) == (local, name)


def test_an_address_of_a_name_is_as_far_away_as_the_name() -> None:
    assert not Endpoint(host="127.0.1.1", port=1, name="web.example.org").is_local


def test_several_servers() -> None:
    one, two = Endpoint(host="a", port=1), Endpoint(path="/run/s")
    assert parse_servers("a:1, unix:/run/s,a:1", environ={}) == (one, two)
    assert parse_servers(["a:1", two], environ={}) == (one, two)
    assert parse_servers(two) == (two,)
    assert parse_servers(environ={"LONGSHORE_SERVER": "unix:/run/s,a:1"}) == (two, one)
    assert parse_servers(environ={"LONGSHORE_SERVER": ""}) == (Endpoint.parse(environ={}),)
    for wrong in ("", ",", "a:1,b"):
        with pytest.raises(ConfigurationError):
            parse_servers(wrong, environ={})
    with pytest.raises(ConfigurationError):
        parse_servers([])


def test_default_and_environment() -> None:
    assert Endpoint.parse(environ={}).target == "127.0.0.1:7465"
    assert Endpoint.parse(environ={"LONGSHORE_SERVER": "unix:/s"}).target == "unix:/s"
    assert Endpoint.parse("localhost:1", environ={"LONGSHORE_SERVER": "unix:/s"}).target == "localhost:1"


def test_a_relative_socket_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Endpoint.parse("unix:here.sock", environ={}).path == str(tmp_path / "here.sock")


def test_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_data_dir(environ={"LONGSHORE_DATA_DIR": "/d", "XDG_DATA_HOME": "/x"}) == Path("/d")
    monkeypatch.setattr(module, "SYSTEM_DATA_DIR", tmp_path / "none")
    assert default_data_dir(environ={"XDG_DATA_HOME": "/x"}) == Path("/x/longshore")
    assert default_data_dir(environ={}) == Path.home() / ".local/share/longshore"


@pytest.mark.parametrize(("uid", "expected"), [(0, "system"), (1000, "x/longshore")])
def test_only_root_means_the_system_s_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uid: int, expected: str
) -> None:
    (tmp_path / "system").mkdir()
    monkeypatch.setattr(module, "SYSTEM_DATA_DIR", tmp_path / "system")
    monkeypatch.setattr("os.geteuid", lambda: uid)
    assert default_data_dir(environ={"XDG_DATA_HOME": str(tmp_path / "x")}) == tmp_path / expected


def test_order_of_tokens(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-the-directory\n")
    (tmp_path / "other").write_text("of-a-file\n")
    environ = {"LONGSHORE_DATA_DIR": str(tmp_path)}
    assert find_token(environ=environ) == "of-the-directory"
    environ["LONGSHORE_TOKEN_FILE"] = str(tmp_path / "other")
    assert find_token(environ=environ) == "of-a-file"
    environ["LONGSHORE_TOKEN"] = "of-the-environment"
    assert find_token(environ=environ) == "of-the-environment"
    # An option of the command line beats a variable that happens to be in the environment.
    assert find_token(data_dir=tmp_path, environ=environ) == "of-the-directory"
    assert find_token(token_file=tmp_path / "other", environ=environ) == "of-a-file"
    assert find_token(token="given", environ=environ) == "given"


def test_only_a_token_that_was_named_may_travel(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("found\n")

    def named(**given: Any) -> bool:
        token = find_credential(**{"environ": {}, **given})
        assert token is not None
        assert token.value not in repr(token)
        return token.named

    assert not named(environ={"LONGSHORE_DATA_DIR": str(tmp_path)})
    assert not named(data_dir=tmp_path)
    assert named(token_file=tmp_path / "token")
    assert named(token="given")
    assert named(environ={"LONGSHORE_TOKEN": "given"})
    assert named(environ={"LONGSHORE_TOKEN_FILE": str(tmp_path / "token")})


def test_no_token_is_no_error_but_a_missing_file_that_was_named_is(tmp_path: Path) -> None:
    assert find_token(environ={"LONGSHORE_DATA_DIR": str(tmp_path)}) is None
    with pytest.raises(ConfigurationError, match="there is no token file"):
        find_token(token_file=tmp_path / "token", environ={})


@pytest.mark.parametrize("content", [b"", b"two words", b"line\nline", "schlüssel".encode(), b"\xff\xfe"])
def test_invalid_tokens_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigurationError):
        find_token(data_dir=tmp_path, environ={})


def test_credentials() -> None:
    assert credentials("abc") == (("authorization", "Bearer abc"),)
    assert credentials(None) == ()
