"""The rows about uploads share this module: servers and senders in processes of their own, and what they cost."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.support.figures import GIB, MB
from bench.support.processes import ROOT, Talker, cpu
from bench.support.run import Run, installed
from tests.support.servers.processes import Process, ServerProcess, eventually


class UploadServer:
    """A server on a TCP port of 127.0.0.1, ours with its defaults or the floor; started by `with`."""

    def __init__(self, run: Run, *, floor: bool = False) -> None:
        self._run = run
        self._floor = floor
        folder = run.folder / ("floor" if floor else "longshored")
        self.process: Final[ServerProcess] = (
            run.floor(folder, port=True) if floor else run.server(folder, "--listen", "127.0.0.1:0")
        )

    def __enter__(self) -> UploadServer:
        self.process.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.__exit__(*exc)

    @property
    def port(self) -> str:
        """HOST:PORT."""
        if self._floor:
            return self.process.address
        (serving,) = self.process.events("serving")
        return next(str(each) for each in serving["addresses"] if not each.startswith("unix:"))

    def forget(self) -> None:
        """Remove the payloads: nobody takes the tasks of a bench, and the disk is not to fill up."""
        for path in self.process.data.glob("upload-*" if self._floor else "spool/payloads/*/*"):
            path.unlink()

    def sender(self, how: str, size: int, count: int = 1, at_once: int = 1) -> Talker:
        """A client process; `how`: see bench/loads/uploads.py."""
        where = (self.port, str(self.process.token_file))
        return self._run.client("bench.loads.uploads", how, *where, str(size), str(count), str(at_once))

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of `longshore` for this server."""
        return {**os.environ, "LONGSHORE_SERVER": self.port, "LONGSHORE_TOKEN_FILE": str(self.process.token_file)}


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

    def sender(self, size: int, count: int = 1) -> Talker:
        """Go's net/http client."""
        return Talker(str(go_binary()), "load", f"http://{self.address}", str(size), str(count))


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


async def sent(run: Run, what: str, size: int, sender: Talker, pids: Sequence[int], *, count: int = 1) -> float:
    """Seconds of one round. CPU of server and sender goes to stderr: seconds a GiB or, of several, µs each."""

    def look() -> tuple[float, float]:
        return sum(cpu(pid) for pid in pids), cpu(sender.pid)

    before = look()
    seconds = float(await sender.ask())
    server, sending = (now - then for now, then in zip(look(), before, strict=True))
    each = (GIB / size, "s/GiB") if count == 1 else (1e6 / count, "µs each")
    run.say(
        f"{run.row}: {what} {size / seconds / MB:,.0f} MB/s, CPU in {each[1]}: "
        f"server {server * each[0]:.3g}, sender {sending * each[0]:.3g}"
    )
    return seconds
