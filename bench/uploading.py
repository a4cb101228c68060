"""The rows about uploads share this module: servers and senders in processes of their own, and what they cost."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import psutil

from bench.rows import ROOT, Run, installed
from tests.support.servers.processes import Process, ServerProcess, eventually

KIB: Final = 1 << 10
GIB: Final = 1 << 30
MIB: Final = 1 << 20
MB: Final = 1e6
"""Rates are in MB/s, as disks' are."""


class Longshored(ServerProcess):
    """The real server with its defaults, on a TCP port of 127.0.0.1."""

    def __init__(self, run: Run, *options: str) -> None:
        super().__init__(run.folder / "longshored", "--listen", "127.0.0.1:0", *options, environment=run.environment())

    @property
    def port(self) -> str:
        """HOST:PORT."""
        (serving,) = self.events("serving")
        return next(str(each) for each in serving["addresses"] if not each.startswith("unix:"))

    def forget(self) -> None:
        """Remove the payloads: nobody takes the tasks of a bench, and the disk is not to fill up."""
        for path in (self.data / "spool" / "payloads").glob("*/*"):
            path.unlink()


class Peer(Process):
    """A server that takes files into `folder`. Leaving the context ends it."""

    def __init__(self, run: Run, name: str, argv: Sequence[str], folder: Path) -> None:
        super().__init__(name=name, root=run.folder, argv=argv)
        self.folder = folder
        self.address = ""

    def __exit__(self, *_exc: object) -> None:
        # This ends nginx politely and does not kill it: nginx tells its workers.
        self.terminate()

    def forget(self) -> None:
        """Remove what came."""
        for path in self.folder.rglob("*"):
            if path.is_file():
                path.unlink()


def go_binary() -> Path:
    """bench/peers/upload.go, built. Raises CalledProcessError."""
    installed("go")
    target = ROOT / "build" / "go" / "upload"
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["go", "build", "-o", str(target), str(ROOT / "bench" / "peers" / "upload.go")], check=True)
    return target


@contextmanager
def go_handler(run: Run) -> Iterator[Peer]:
    """The Go handler, serving."""
    folder = run.folder / "go"
    folder.mkdir()
    with Peer(run, "go-server", [str(go_binary()), "serve", str(folder)], folder) as peer:
        peer.address = str(eventually(lambda: peer.log().strip(), what="the address of the Go handler"))
        yield peer


_NGINX: Final = """
daemon off; worker_processes 2; pid {root}/nginx.pid; error_log stderr; events {{ }}
http {{
  access_log off; client_max_body_size 0; client_body_temp_path {root}/nginx/temp;
  server {{ listen 127.0.0.1:{port}; root {root}/nginx/files; dav_methods PUT; create_full_put_path on; }}
}}
"""


@contextmanager
def nginx(run: Run) -> Iterator[Peer]:
    """nginx with PUT: two processes, and its temp folder beside its files, so that it renames."""
    installed("nginx")
    folder = run.folder / "nginx"
    (folder / "files").mkdir(parents=True)
    # Started as root it serves as somebody else.
    for each in (run.folder, folder, folder / "files"):
        each.chmod(0o777)
    port = _free_port()
    conf = run.folder / "nginx.conf"
    conf.write_text(_NGINX.format(root=run.folder, port=port))
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
    argv = [program, "-c", str(conf), "-p", str(run.folder), "-e", "stderr"]
    with Peer(run, "nginx", argv, folder / "files") as peer:
        peer.address = f"127.0.0.1:{port}"
        eventually(lambda: _answers(port), what="nginx")
        yield peer


def _free_port() -> int:
    """Find a free port, for a program that cannot take one by itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Sender:
    """A process that prepares its load, and sends it each time it is told to."""

    def __init__(self, *argv: str) -> None:
        self._argv = argv
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )
        await self._line()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        process = self._process
        assert process is not None
        if process.returncode is None:
            process.kill()
        await process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def send(self) -> float:
        """Seconds for the load, from its first byte to its last answer."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        return float(await self._line())

    async def _line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 120)
        if not line:
            raise AssertionError(f"{self._argv[0]} ended with {await self._process.wait()}")
        return line.decode().strip()


def go_sender(address: str, size: int, count: int) -> Sender:
    return Sender(str(go_binary()), "load", f"http://{address}", str(size), str(count))


def our_sender(server: Longshored, size: int, count: int) -> Sender:
    return Sender(
        sys.executable, "-m", "bench.upload_sender", server.port, str(server.token_file), str(size), str(count)
    )


def our_client(server: Longshored, content: Path) -> Sender:
    return Sender(sys.executable, "-m", "bench.upload_client", server.port, str(server.token_file), str(content))


async def measured(run: Run, who: str, size: int, sender: Sender, pids: Sequence[int]) -> float:
    """MB/s of `size` bytes; CPU seconds a GiB of server and sender to stderr."""
    before = cpu(pids), cpu([sender.pid])
    seconds = await sender.send()
    server, sending = cpu(pids) - before[0], cpu([sender.pid]) - before[1]
    run.say(
        f"{run.row}: {who} {size / seconds / MB:,.0f} MB/s, CPU s/GiB: "
        f"server {server * GIB / size:.2f}, sender {sending * GIB / size:.2f}"
    )
    return size / seconds / MB


def cpu(pids: Sequence[int]) -> float:
    """User and system seconds so far."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(each.user + each.system for each in times))


def family(process: Process) -> list[int]:
    """A process and its children."""
    return [process.pid, *(each.pid for each in psutil.Process(process.pid).children(recursive=True))]
