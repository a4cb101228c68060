"""deploy/haproxy: two servers behind the shipped configurations, with TLS; everything a user does goes through."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from longshore.client import TLS, Client, push_spec
from longshore.v1 import task_pb2
from tests.support.parts import require_program
from tests.support.servers.cluster import ServerFleet, fleet_of
from tests.support.servers.processes import Process, ServerProcess, eventually
from tests.support.stores.postgres import Cluster

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
NAME = "longshore.example"
LATER = 3600.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Quay:
    """A balancer behind one port, and the servers behind it."""

    fleet: ServerFleet
    proxy: Process
    port: int
    tls: TLS
    token_file: Path

    def client(self) -> Client:
        return Client(server=f"127.0.0.1:{self.port}", tls=self.tls, token_file=self.token_file, patience=40.0)

    def sees(self, server: str, state: str) -> None:
        """Wait until the proxy has noticed."""
        eventually(lambda: f"Server longshored/{server} is {state}" in self.proxy.log(), what=f"{server} is {state}")

    def worker(self) -> Process:
        options = ("--tls-ca", str(self.tls.ca), "--tls-server-name", NAME)
        return self.fleet.worker(*options, address=f"127.0.0.1:{self.port}")


def shipped(name: str, folder: Path, port: int, servers: list[int]) -> Path:
    """The configuration as it is shipped, but for addresses, the folder of the certificates, and pauses."""
    text = (DEPLOY / "haproxy" / name).read_text()
    text = text.replace("/etc/haproxy/tls", str(folder / "tls")).replace("bind :7465", f"bind 127.0.0.1:{port}")
    # Servers come and go faster here.
    text = text.replace("inter 2s fastinter 500ms", "inter 300ms")
    for letter, server in zip("ab", servers, strict=True):
        text, count = re.subn(rf"longshored-{letter}:7465", f"127.0.0.1:{server}", text)
        assert count == 1
    made = folder / name
    made.write_text(text)
    return made


@contextmanager
def behind(haproxy: str, name: str, root: Path, postgres: Cluster) -> Iterator[Quay]:
    tls = root / "tls"
    subprocess.run([DEPLOY / "compose" / "certs.sh", tls, NAME, "longshored-a", "longshored-b"], check=True)
    certificates = ("--tls-cert", str(tls / "server.crt"), "--tls-key", str(tls / "server.key"))
    ports = [free_port(), free_port()]
    configuration = shipped(name, root, port := free_port(), ports)
    with ExitStack() as stack:
        fleet = stack.enter_context(fleet_of(root, postgres, "--lease", "3s", *certificates, servers=2))
        for server, own in zip(fleet.servers, ports, strict=True):
            server.kill()
            server.argv += ["--listen", f"127.0.0.1:{own}"]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(ServerProcess.start, fleet.servers))
        fleet.make_instances("web")
        proxy = Process(name="haproxy", root=root, argv=[haproxy, "-f", str(configuration)])
        stack.enter_context(proxy)
        yield Quay(fleet, proxy, port, TLS(ca=tls / "ca.crt", server_name=NAME), fleet.servers[0].token_file)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["haproxy.cfg", "haproxy-h2.cfg"])
def test_all_goes_through_haproxy_while_servers_leave_and_come_back(
    name: str, tmp_path: Path, postgres: Cluster
) -> None:
    require_program("openssl", "openssl")
    with (
        behind(require_program("haproxy", "haproxy"), name, tmp_path, postgres) as quay,
        quay.client() as client,
        quay.worker(),
        ThreadPoolExecutor(1) as pool,
    ):

        def delivers(content: bytes) -> None:
            (task,) = client.upload(content, spec=push_spec("web/srv/motd"))
            assert client.wait(task.id).state == task_pb2.TASK_STATE_SUCCEEDED
            assert (quay.fleet.instances / "web/srv/motd").read_bytes() == content

        delivers(b"first")
        for number, server in enumerate(quay.fleet.servers):
            (waiting,) = client.upload(b"never", spec=push_spec("web/srv/later", not_before=LATER))
            watch = client.watch(waiting.id)
            assert next(watch).state == task_pb2.TASK_STATE_SCHEDULED
            rest = pool.submit(list, watch)
            assert server.terminate() == 0
            delivers(b"without server %d" % number + bytes(200_000))
            client.cancel(waiting.id)
            assert rest.result(30)[-1].state == task_pb2.TASK_STATE_CANCELLED
            # A server that is back at once might never be missed.
            quay.sees("ab"[number], "DOWN")
            server.start()
            quay.sees("ab"[number], "UP")
        delivers(b"last")
