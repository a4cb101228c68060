"""TLS of the client: whom it trusts, what it says when it cannot, and certificates that change while it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from longshore.client import TLS, AsyncClient, ConfigurationError, TLSError, Unavailable, push_spec
from longshore.client.servers.access import ServerAccess
from longshore.client.servers.endpoint import Endpoint, Token
from longshore.client.servers.tls import find_tls
from longshore.v1 import task_pb2
from tests.support.commandline import CommandLine
from tests.support.servers import certificates
from tests.support.servers.certificates import Authority, Pair
from tests.support.servers.fakeservice import FakeTaskServer

SPEC = push_spec("web/etc/motd")


class World:
    """An authority, and another one that nobody has asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority, self.stranger = Authority(), Authority("A stranger")
        self.ca = self.file("ca.crt", self.authority.certificate)
        self.other_ca = self.file("other.crt", self.stranger.certificate)
        self.trusting = TLS(ca=self.ca)

    def file(self, name: str, content: bytes) -> Path:
        certificates.replace(self.folder / name, content)
        return self.folder / name

    def credentials(self, pair: Pair | None = None, *, asks: bool = False) -> grpc.ServerCredentials:
        """For a server; `asks`: it wants a certificate of the client."""
        pair = pair or self.authority.server()
        roots = self.authority.certificate if asks else None
        return grpc.ssl_server_credentials([(pair.key, pair.certificate)], roots, asks)

    def showing(self, pair: Pair, name: str = "client") -> TLS:
        cert, key = pair.write(self.folder, name)
        return replace(self.trusting, cert=cert, key=key)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@asynccontextmanager
async def serving(credentials: grpc.ServerCredentials | None) -> AsyncIterator[FakeTaskServer]:
    async with FakeTaskServer(credentials) as server:
        server.service.history["t"] = [task_pb2.Task(id="t", revision=1, done=True)]
        yield server


async def test_calls_watches_and_uploads_over_tls(world: World) -> None:
    async with (
        serving(world.credentials()) as server,
        AsyncClient(server=server.address, tls=world.trusting, token="secret") as client,
    ):
        assert (await client.get("t")).revision == 1
        assert [task.revision async for task in client.watch("t")] == [1]
        content = bytes(3_000_000)
        await client.upload(content, spec=SPEC, request_id="r")
        assert bytes(server.service.stored["r"].data) == content
        assert all(each["authorization"] == "Bearer secret" for each in server.service.metadata)


async def test_a_certificate_of_our_own(world: World) -> None:
    tls = world.showing(world.authority.client())
    async with (
        serving(world.credentials(asks=True)) as server,
        AsyncClient(server=server.address, tls=tls) as client,
    ):
        assert (await client.get("t")).revision == 1


async def test_a_name_that_is_not_the_address(world: World) -> None:
    credentials = world.credentials(world.authority.server("fleet.example.org"))
    named = replace(world.trusting, server_name="fleet.example.org")
    async with serving(credentials) as server, AsyncClient(server=server.address, tls=named) as client:
        assert (await client.get("t")).revision == 1


async def test_every_address_of_a_name_must_have_its_certificate(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's resolver gives what it is told here."""
    good = world.credentials(world.authority.server("fleet.example.org"))
    bad = world.credentials(world.authority.server("127.0.0.1"))
    async with serving(good) as right, serving(bad) as wrong:

        async def addresses(endpoint: Endpoint) -> list[Endpoint]:
            return [Endpoint(host="127.0.0.1", port=each.port, name=endpoint.host) for each in (right, wrong)]

        monkeypatch.setattr("longshore.client.servers.names._addresses", addresses)
        async with AsyncClient(server="fleet.example.org:1", tls=world.trusting, token="secret") as client:
            for _ in range(6):
                await client.get("t")
        assert len(right.service.requests) == 6
        assert not wrong.service.metadata


Makes = Callable[[World], tuple[grpc.ServerCredentials | None, TLS | None]]

WRONG: dict[str, tuple[Makes, str, str]] = {
    "a server without TLS": (lambda w: (None, w.trusting), "TLS_NOT_SPOKEN", "Leave out the --tls options"),
    "a client without TLS": (lambda w: (w.credentials(), None), "TLS_REQUIRED", "--tls-ca"),
    "another CA": (lambda w: (w.credentials(), TLS(ca=w.other_ca)), "TLS_UNKNOWN_CA", "--tls-ca"),
    "the system's CAs": (lambda w: (w.credentials(), TLS()), "TLS_UNKNOWN_CA", "--tls-ca"),
    "a stranger's server": (lambda w: (w.credentials(w.stranger.server()), w.trusting), "TLS_UNKNOWN_CA", "--tls-ca"),
    "another name": (
        lambda w: (w.credentials(w.authority.server("example.org")), w.trusting),
        "TLS_WRONG_NAME",
        "--tls-server-name",
    ),
    "a name that is not there": (
        lambda w: (w.credentials(), replace(w.trusting, server_name="example.org")),
        "TLS_WRONG_NAME",
        "--tls-server-name",
    ),
    "expired": (lambda w: (w.credentials(w.authority.server(expired=True)), w.trusting), "TLS_EXPIRED", "Renew it"),
    "no certificate of ours": (
        lambda w: (w.credentials(asks=True), w.trusting),
        "TLS_CLIENT_CERTIFICATE",
        "wants a certificate of ours.*--tls-cert and --tls-key",
    ),
    "a stranger's certificate": (
        lambda w: (w.credentials(asks=True), w.showing(w.stranger.client())),
        "TLS_CLIENT_CERTIFICATE",
        "does not take our certificate",
    ),
    "an expired certificate of ours": (
        lambda w: (w.credentials(asks=True), w.showing(w.authority.client(expired=True))),
        "TLS_CLIENT_CERTIFICATE",
        "does not take our certificate.*not expired",
    ),
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_tls_mismatch_is_reported_at_once_with_the_remedy(world: World, case: str) -> None:
    make, reason, remedy = WRONG[case]
    credentials, tls = make(world)
    began = time.monotonic()
    async with serving(credentials) as server, AsyncClient(server=server.address, tls=tls, patience=60) as client:
        with pytest.raises(TLSError, match=remedy) as caught:
            await client.get("t")
        assert caught.value.reason == reason
        with pytest.raises(TLSError):
            await client.upload(b"x", spec=SPEC)
        with pytest.raises(TLSError):
            await client.wait("t")
        assert not server.service.metadata, "nothing was said to a server that is not trusted"
    assert time.monotonic() - began < 10, "patience does not help"


async def test_a_server_that_cannot_be_trusted_is_passed_over(world: World) -> None:
    async with (
        serving(world.credentials(world.stranger.server())) as wrong,
        serving(world.credentials()) as right,
        AsyncClient(server=[wrong.address, right.address], tls=world.trusting) as client,
    ):
        for _ in range(5):
            await client.get("t")
        assert len(right.service.requests) == 5


async def test_when_others_are_only_away_there_is_hope(world: World) -> None:
    waits: list[float] = []
    async with serving(world.credentials(world.stranger.server())) as wrong, serving(world.credentials()) as right:
        await right.__aexit__()
        async with AsyncClient(
            server=[wrong.address, right.address],
            tls=world.trusting,
            patience=1,
            on_wait=lambda _error, pause: waits.append(pause),
        ) as client:
            with pytest.raises(Unavailable):
                await client.get("t")
        await right.__aenter__()
    assert waits


@pytest.mark.parametrize("mode", ["its own", "the server's"])
async def test_certificates_are_replaced_while_it_runs(
    world: World, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """A new authority signs for both sides: a client that kept the old files could not connect any more."""
    monkeypatch.setattr("longshore.client.servers.access._LOOK", 0.0)
    tls = world.showing(world.authority.client())
    async with (
        serving(world.credentials(asks=True)) as server,
        AsyncClient(server=server.address, tls=tls, patience=0) as client,
    ):
        await client.get("t")
        watch = client.watch("t")
        world.authority = Authority("The new one")
        if mode == "its own":
            # A connection that stands goes on with its old files; a new one uses the new files.
            world.showing(world.authority.client())
            world.file("ca.crt", world.authority.certificate)
            with pytest.raises(TLSError):
                await client.get("t")
        await server.__aexit__()
        server.credentials = world.credentials(asks=True)
        async with server:
            if mode == "the server's":
                with pytest.raises(TLSError):
                    await client.get("t")
                world.showing(world.authority.client())
                world.file("ca.crt", world.authority.certificate)
            assert (await client.get("t")).revision == 1
            assert [task.revision async for task in watch] == [1]
            await server.__aexit__()
        await server.__aenter__()


async def test_files_that_are_half_replaced_are_not_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longshore.client.servers.access._LOOK", 0.0)
    tls = world.showing(world.authority.client())
    async with (
        serving(world.credentials(asks=True)) as server,
        AsyncClient(server=server.address, tls=tls, patience=0) as client,
    ):
        await client.get("t")
        world.file("client.crt", world.authority.client().certificate)
        await client.get("t")
        (world.folder / "client.key").unlink()
        await client.get("t")
        world.file("ca.crt", b"")
        await client.get("t")


def test_files_that_cannot_be_used_are_named(world: World, tmp_path: Path) -> None:
    cert, key = world.authority.client().write(tmp_path, "one")
    other_cert, _ = world.authority.client().write(tmp_path, "other")
    sealed = certificates.encrypted(world.authority.client()).write(tmp_path, "sealed")
    nothing = world.file("nothing", b"nothing\n")
    for tls, option in (
        (TLS(ca=tmp_path / "none"), "--tls-ca"),
        (TLS(ca=nothing), "--tls-ca"),
        (TLS(cert=tmp_path / "none", key=key), "--tls-cert"),
        (TLS(cert=cert, key=tmp_path / "none"), "--tls-key"),
        (TLS(cert=other_cert, key=key), "--tls-cert"),
        (TLS(cert=sealed[0], key=sealed[1]), "unencrypted"),
        (TLS(cert=nothing, key=key), "--tls-cert"),
    ):
        with pytest.raises(ConfigurationError, match=option):
            tls.credentials()
    with pytest.raises(ConfigurationError, match="--tls-key"):
        TLS(cert=cert)
    with pytest.raises(ConfigurationError, match="--tls-cert"):
        TLS(key=key)


def test_options_and_environment() -> None:
    assert find_tls(environ={}) is None
    assert find_tls(environ={"LONGSHORE_TLS": "0"}) is None
    assert find_tls(environ={"LONGSHORE_TLS": "1"}) == TLS()
    assert find_tls(tls=True, environ={}) == TLS()
    assert find_tls(ca="/a", environ={"LONGSHORE_TLS_CA": "/b", "LONGSHORE_TLS_SERVER_NAME": "n"}) == TLS(
        ca="/a", server_name="n"
    )
    both = {"LONGSHORE_TLS_CERT": "/c", "LONGSHORE_TLS_KEY": "/k"}
    assert find_tls(environ=both) == TLS(cert="/c", key="/k")
    assert find_tls(cert="/d", key="/l", environ=both) == TLS(cert="/d", key="/l")
    with pytest.raises(ConfigurationError, match="--tls-key"):
        find_tls(cert="/d", environ=both)


def test_which_addresses_use_tls() -> None:
    far, near, socket = (Endpoint.parse(each) for each in ("db.example.org:1", "127.0.0.1:1", "unix:/run/s"))
    without = ServerAccess(tls=None, token=lambda: None)
    assert [without.tls_for(each) for each in (far, near, socket)] == [TLS(), None, None]
    tls = TLS(server_name="x")
    given = ServerAccess(tls=tls, token=lambda: None)
    assert [given.tls_for(each) for each in (far, near, socket)] == [tls, tls, None]


@pytest.mark.parametrize("named", [True, False])
def test_a_token_that_was_found_does_not_leave_this_machine(*, named: bool) -> None:
    access = ServerAccess(tls=None, token=lambda: Token(value="secret", named=named))
    shown = (("authorization", "Bearer secret"),)
    for near in ("127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/run/s"):
        assert access.metadata(Endpoint.parse(near)) == shown
    for far in ("10.0.0.1:1", "db.example.org:1", "0.0.0.0:1"):
        assert access.metadata(Endpoint.parse(far)) == (shown if named else ())
    assert access.metadata(Endpoint(host="127.0.1.1", port=1, name="db.example.org")) == (shown if named else ())


async def test_the_command_line_over_tls(world: World) -> None:
    async with serving(world.credentials()) as server:
        cli = CommandLine(address=server.address, data_dir=world.folder, folder=world.folder)

        def both() -> tuple[int, int, str]:
            good = cli.run("get", "t", "--tls-ca", str(world.ca), "--output", "id")
            wrong = cli.run("get", "t", environment={"LONGSHORE_TLS_CA": str(world.other_ca)})
            return good.code, wrong.code, wrong.err

        good, wrong, said = await asyncio.to_thread(both)
    assert (good, wrong) == (0, 7)
    assert said.startswith("longshore: the server at 127.0.0.1:")
    assert "--tls-ca" in said
    assert len(said.splitlines()) == 1, said
