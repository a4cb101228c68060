"""Two servers that know certificates only: a client and a worker show theirs, and new ones while all of it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.client import TLS, Client, TLSError, Unauthenticated, push_spec
from tests.support.servers.certificates import Authority, replace
from tests.support.servers.cluster import ServerFleet, fleet_of
from tests.support.servers.processes import Process, ServerProcess, WorkerProcess, eventually
from tests.support.stores.postgres import Cluster


class Certificates:
    """One authority for all; the next one replaces every file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ca = folder, folder / "ca.crt"
        self.renew()

    def renew(self) -> None:
        authority = Authority()
        replace(self.ca, authority.certificate)
        authority.server("127.0.0.1").write(self.folder, "server")
        for name in ("client", "worker"):
            authority.client(dns=f"{name}.example.org").write(self.folder, name)

    @property
    def of_servers(self) -> list[str]:
        pair = ["--tls-cert", str(self.folder / "server.crt"), "--tls-key", str(self.folder / "server.key")]
        roles = ["--client-role", "client.example.org=submit", "--client-role", "worker.example.org=work"]
        return [*pair, "--tls-client-ca", str(self.ca), *roles]

    def of(self, name: str) -> TLS:
        return TLS(ca=self.ca, cert=self.folder / f"{name}.crt", key=self.folder / f"{name}.key")


def address(server: ServerProcess) -> str:
    """Return the address of the server's TLS listener."""
    *_, serving = server.events("serving")
    found: str = next(each for each in serving["addresses"] if not each.startswith("unix:"))
    return found


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certificates")


@pytest.fixture
def fleet(tmp_path: Path, postgres: Cluster, certificates: Certificates) -> Iterator[ServerFleet]:
    """Workers are not let into the spool, so that payloads come over TLS too."""
    options = ["--listen", "127.0.0.1:0", "--no-share-spool", *certificates.of_servers]
    with fleet_of(tmp_path, postgres, *options) as fleet:
        fleet.make_instances("web")
        yield fleet


def worker_of(fleet: ServerFleet, certificates: Certificates, root: Path) -> WorkerProcess:
    """It has a certificate and no token."""
    tls = certificates.of("worker")
    options = ["--tls-ca", str(tls.ca), "--tls-cert", str(tls.cert), "--tls-key", str(tls.key)]
    options += ["--data-dir", str(root / "none")]
    addresses = ",".join(address(server) for server in fleet.servers)
    worker = fleet.worker(*options, address=addresses)
    at = worker.argv.index("--token-file")
    del worker.argv[at : at + 2]
    return worker


def welcomes(worker: Process) -> int:
    return len(list(worker.events("session_welcome")))


def test_certificates_are_enough_and_are_replaced_under_everything(
    fleet: ServerFleet, certificates: Certificates, tmp_path: Path
) -> None:
    servers = [address(server) for server in fleet.servers]

    def deliver(client: Client, name: str) -> None:
        content = os.urandom(300_000)
        (task,) = client.upload(content, spec=push_spec(f"web/srv/{name}"))
        assert client.wait(task.id).creator == "client.example.org"
        assert (fleet.instances / "web" / "srv" / name).read_bytes() == content

    with (
        worker_of(fleet, certificates, tmp_path) as worker,
        Client(server=servers, tls=certificates.of("client"), data_dir=tmp_path / "none") as client,
    ):
        for number in range(4):
            deliver(client, f"before{number}")
        old = (certificates.folder / "client.crt").read_bytes(), (certificates.folder / "client.key").read_bytes()
        certificates.renew()
        replace(tmp_path / "old.crt", old[0])
        replace(tmp_path / "old.key", old[1])
        eventually(
            lambda: all(list(server.events("certificates_reloaded")) for server in fleet.servers),
            what="servers have the new ones",
        )
        # Connections that stand go on; the client notices within 2 s and connects anew.
        began = time.monotonic()
        while time.monotonic() - began < 2.5:
            deliver(client, "while")
        # A server that restarts has new connections only, and the worker's session moves over one.
        for server in fleet.servers:
            known = address(server)
            server.kill()
            deliver(client, "without")
            server.argv[server.argv.index("127.0.0.1:0")] = known
            server.start()
            deliver(client, "after")
        assert welcomes(worker) > 1
        stale = TLS(ca=certificates.ca, cert=tmp_path / "old.crt", key=tmp_path / "old.key")
        with (
            Client(server=servers, tls=stale, data_dir=tmp_path / "none") as other,
            pytest.raises(TLSError, match="does not take our certificate"),
        ):
            other.get("T")
        with (
            Client(server=servers, tls=certificates.of("worker"), data_dir=tmp_path / "none", token="x") as other,
            pytest.raises(Unauthenticated),
        ):
            other.get("T")
