"""Show Longshore in half a minute: a server with its own worker, and a file that goes through both.

Everything is in a temporary directory, which the demo removes. It prints each command as a user would type it.
With `--lxd` the file goes into a container of an LXD daemon that is started for it, which needs root.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from tests.support.workers.lxd import LxdDaemon

READY_WITHIN = 20.0
STOP_WITHIN = 30.0
"""Seconds; starting takes about one, and a drain without uploads takes less."""


@dataclass(frozen=True, slots=True)
class Demo:
    """The demo's directory, and the environment with which every command finds the server there."""

    place: Path
    environment: dict[str, str]

    def run(self, *command: str | Path) -> None:
        """Print a command and run it. If it fails, the demo fails."""
        words = [str(word) for word in command]
        print(f"\n$ {shlex.join(words)}", flush=True)
        code = subprocess.run(words, cwd=self.place, env=self.environment, check=False).returncode
        if code != 0:
            sys.exit(f"that ended with {code}")

    @contextmanager
    def server(self, *options: str) -> Iterator[None]:
        """Run `longshored` with its own worker while the block runs, and end it as a service manager does."""
        command = ["longshored", "--worker", *options]
        print(f"\n$ {shlex.join(command)} &", flush=True)
        log = self.place / "longshored.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=self.place, env=self.environment, stdout=out, stderr=subprocess.STDOUT
            )
        try:
            wait_until_ready(self.environment["LONGSHORE_SERVER"], process, log)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            print("\n$ kill -TERM %1; wait %1", flush=True)
            try:
                code = process.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                sys.exit(f"longshored had not stopped {STOP_WITHIN:g} s after SIGTERM; its log:\n{log.read_text()}")
        if code != 0:
            sys.exit(f"longshored ended with {code}; its log:\n{log.read_text()}")


def wait_until_ready(server: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server accepts connections."""
    with grpc.insecure_channel(server) as channel:
        try:
            grpc.channel_ready_future(channel).result(READY_WITHIN)
        except grpc.FutureTimeoutError:
            process.poll()
            sys.exit(f"longshored does not serve (exit code {process.returncode}); its log:\n{log.read_text()}")


def environment(place: Path) -> dict[str, str]:
    """Return this environment, with the commands of this installation first and the address of one server."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("LONGSHORE_")}
    socket = f"unix:{place / 'socket'}"
    return ours | {
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), ours.get("PATH", os.defpath)]),
        "LONGSHORE_DATA_DIR": str(place / "data"),
        "LONGSHORE_LISTEN": socket,
        "LONGSHORE_SERVER": socket,
    }


def into_a_directory(demo: Demo) -> None:
    """Use the default target: instance roots below one folder."""
    root = demo.place / "data" / "instances" / "web"
    root.mkdir(parents=True)
    with demo.server():
        show_a_delivery(demo)
        demo.run("cat", root / "srv/hello/greeting.txt")
        demo.run("sha256sum", "greeting.txt", root / "srv/hello/greeting.txt")


def into_a_container(demo: Demo) -> None:
    """Start a daemon and a container that has only busybox."""
    # This folder is beside the demo's own: the container's root is an unprivileged user of the host, and must reach it.
    with tempfile.TemporaryDirectory(prefix="longshore-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        folder = Path(name) / "lxd"
        folder.mkdir(mode=0o711)
        daemon = LxdDaemon(folder)
        try:
            daemon.start()
            daemon.set_up()
            daemon.launch("web")
            inside = {"LXD_DIR": str(daemon.directory), "LXD_CONF": str(folder / "conf")}
            demo = replace(demo, environment=demo.environment | inside)
            with demo.server("--target", f"default=lxd:{daemon.socket}"):
                show_a_delivery(demo)
                demo.run("lxc", "exec", "web", "--", "ls", "-l", "/srv/hello")
                demo.run("lxc", "exec", "web", "--", "sha256sum", "/srv/hello/greeting.txt")
                demo.run("sha256sum", "greeting.txt")
        finally:
            daemon.close()


def show_a_delivery(demo: Demo) -> None:
    """Push a file, and look at the result."""
    demo.run(
        "longshore", "push", "--wait", "--create-dirs", "--mode", "640", "greeting.txt", "web/srv/hello/greeting.txt"
    )
    demo.run("longshore", "list")
    demo.run("longshore", "stats")


def main(arguments: Sequence[str]) -> None:
    """Entry point."""
    if list(arguments) not in ([], ["--lxd"]):
        sys.exit("usage: demo [--lxd]")
    show = into_a_container if arguments else into_a_directory
    # The path must be short: a unix socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="longshore-") as name:
        place = Path(name)
        (place / "greeting.txt").write_text("Hello from the quay.\n")
        show(Demo(place, environment(place)))
    print("\nEverything that was made is gone again.")


if __name__ == "__main__":
    main(sys.argv[1:])
