"""longshored and the world outside: which addresses it opens, with what, and what it says where it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from longshore.server.app import serving
from longshore.server.config.settings import Settings, SettingsError, TlsFiles
from longshore.server.config.values import parse_client_roles
from longshore.server.data.datadir import DataDir
from longshore.server.model.access import Role
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import task_service_pb2_grpc as pb_grpc
from tests.support.servers.certificates import Authority, replace
from tests.support.servers.processes import ServerProcess, eventually
from tests.support.servers.tokens import make_token, metadata, token_admin, token_of


class Files:
    """An authority and its files; the options that name them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.certificate, self.key = self.authority.server().write(folder, "server")
        self.ca = folder / "ca.crt"
        replace(self.ca, self.authority.certificate)

    @property
    def options(self) -> tuple[str, ...]:
        return "--tls-cert", str(self.certificate), "--tls-key", str(self.key)

    def settings(self, *, client_ca: bool = False) -> TlsFiles:
        return TlsFiles(certificate=self.certificate, key=self.key, client_ca=self.ca if client_ca else None)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "tls")


async def refusal(data_dir: Path, *listen: str, **settings: Any) -> str:
    """Return the error of a server that does not start."""
    with DataDir(data_dir) as data, pytest.raises(SettingsError) as refused:
        async with serving(Settings(data_dir=data_dir, listen=listen, **settings), data):
            pass
    return str(refused.value)


async def opens(settings: Settings) -> bool:
    """The server starts."""
    with DataDir(settings.data_dir) as data:
        async with serving(settings, data) as running:
            return running.addresses[0].startswith("0.0.0.0:")


def port(server: ServerProcess) -> int:
    """Return the port of the server's TCP listener."""
    (serving,) = list(server.events("serving"))[-1:]
    return int(next(a for a in serving["addresses"] if not a.startswith("unix:")).rpartition(":")[2])


def lists(server: ServerProcess, authority: Authority, token: str, *, client: Any = None) -> grpc.StatusCode:
    """Return the status of ListTasks over TLS, on a new connection."""
    pair = () if client is None else (client.key, client.certificate)
    credentials = grpc.ssl_channel_credentials(authority.certificate, *pair)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"localhost:{port(server)}", credentials, options=options) as channel:
        opened: Any = channel  # its stubs are typed for grpc.aio
        stub: Any = pb_grpc.TaskServiceStub(opened)
        try:
            stub.ListTasks(pb.ListTasksRequest(), metadata=metadata(token) if token else (), timeout=10)
        except grpc.RpcError as refused:
            error: Any = refused
            return grpc.StatusCode(error.code())
        return grpc.StatusCode.OK


async def test_other_machines_get_in_with_tls_and_credentials_only(tmp_path: Path, files: Files) -> None:
    data = tmp_path / "data"
    said = await refusal(data, "0.0.0.0:0")
    assert all(part in said for part in ("--tls-cert", "--tls-key", "token create"))
    said = await refusal(data, "0.0.0.0:0", tls=files.settings())
    assert all(part in said for part in ("token create", "--client-role", "credentials"))
    # An authority alone is none, nor is a token that is over.
    assert "credentials" in await refusal(data, "0.0.0.0:0", tls=files.settings(client_ca=True))
    make_token(data, "over", Role.SUBMIT, expires=0.001)
    assert "credentials" in await refusal(data, "0.0.0.0:0", tls=files.settings())
    # One address among others that is refused is enough.
    assert "0.0.0.0" in await refusal(data, f"unix:{tmp_path / 's'}", "0.0.0.0:0")
    # A token is enough, and so is the role of a certificate.
    make_token(data, "ci", Role.SUBMIT)
    assert await opens(Settings(data_dir=data, listen=("0.0.0.0:0",), tls=files.settings()))
    token_admin(data).revoke("ci")
    roles = parse_client_roles(["ci=submit"], client_ca=True)
    tls = files.settings(client_ca=True)
    assert await opens(Settings(data_dir=data, listen=("0.0.0.0:0",), tls=tls, client_roles=roles))


def test_a_token_is_shown_over_tls(tmp_path: Path, files: Files) -> None:
    server = ServerProcess(tmp_path / "s", "--listen", "0.0.0.0:0", *files.options)
    token = token_of(server, "ci", Role.SUBMIT)
    with server:
        assert lists(server, files.authority, token) is grpc.StatusCode.OK
        assert lists(server, files.authority, "") is grpc.StatusCode.UNAUTHENTICATED
        assert lists(server, files.authority, server.token) is grpc.StatusCode.OK


def test_certificates_let_in_and_are_read_again(tmp_path: Path, files: Files) -> None:
    roles = ("--tls-client-ca", str(files.ca), "--client-role", "ci.example.org=submit")
    with ServerProcess(tmp_path / "s", "--listen", "0.0.0.0:0", *files.options, *roles) as server:
        client = files.authority.client(dns="ci.example.org")
        assert lists(server, files.authority, "", client=client) is grpc.StatusCode.OK
        assert lists(server, files.authority, "") is grpc.StatusCode.UNAVAILABLE
        # Everything new: the authority of both sides, while the server runs.
        new = Authority("new")
        replace(files.ca, new.certificate)
        new.server().write(files.folder, "server")
        fresh = new.client(dns="ci.example.org")
        eventually(lambda: lists(server, new, "", client=fresh) is grpc.StatusCode.OK, within=15)
        assert lists(server, files.authority, "", client=client) is grpc.StatusCode.UNAVAILABLE
        assert list(server.events("certificates_reloaded"))
        # And a broken file is told of, and changes nothing.
        replace(files.key, b"nothing")
        eventually(lambda: list(server.events("certificates_not_reloaded")), within=15)
        assert lists(server, new, "", client=fresh) is grpc.StatusCode.OK


async def test_a_broken_file_is_named_at_the_start(tmp_path: Path, files: Files) -> None:
    for option, path in (("--tls-cert", files.certificate), ("--tls-key", files.key), ("--tls-client-ca", files.ca)):
        whole = path.read_bytes()
        replace(path, b"nothing")
        said = await refusal(tmp_path / "data", "127.0.0.1:0", tls=files.settings(client_ca=True))
        assert f"{option} {path}" in said
        replace(path, whole)


async def test_the_worker_child_needs_a_way_in(tmp_path: Path, files: Files) -> None:
    said = await refusal(tmp_path / "data", "127.0.0.1:0", tls=files.settings(), worker=True)
    assert "--listen unix:" in said


def test_the_worker_child_takes_the_unix_socket(tmp_path: Path, files: Files) -> None:
    # Certificates in the environment are the server's own.
    environment = {"LONGSHORE_TLS_CERT": str(files.certificate), "LONGSHORE_TLS_KEY": str(files.key)}
    with ServerProcess(
        tmp_path / "s", "--listen", "127.0.0.1:0", "--worker", environment={**environment, "LONGSHORE_TLS": "1"}
    ) as server:
        (connected,) = eventually(lambda: list(server.events("worker_connected")))
        assert connected["principal"] == "local"


async def test_the_same_address_twice_is_refused(tmp_path: Path) -> None:
    assert "twice" in await refusal(tmp_path / "data", "127.0.0.1:1", "127.0.0.1:1")
    assert "one address" in await refusal(tmp_path / "data")
