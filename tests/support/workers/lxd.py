"""A real LXD daemon of the tests' own: no systemd, no network, no image server. Up in two seconds.

Everything it makes is below one short folder, and goes with it. The daemon is ended by its pid.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support.parts import require, require_program, require_root

_PRESEED: Final = """
config: {images.auto_update_interval: "0"}
storage_pools:
- {name: default, driver: dir}
profiles:
- name: default
  devices: {root: {type: disk, path: /, pool: default}}
"""
_FOLDERS: Final = (
    *("bin", "sbin", "usr", "usr/bin", "usr/sbin", "etc", "proc", "sys", "dev"),
    *("tmp", "root", "var", "run", "mnt", "home", "srv"),
)
_IMAGE: Final = "bb"


class LxdDaemon:
    """One daemon. `lxc` runs its command line; the rest is what tests do often."""

    def __init__(self, folder: Path) -> None:
        self.folder: Final = folder
        self.directory: Final = folder / "d"
        self.socket: Final = self.directory / "unix.socket"
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {**os.environ, "LXD_DIR": str(self.directory), "LXD_CONF": str(folder / "conf")}
        (folder / "conf").mkdir()
        self.directory.mkdir()

    # -- the daemon --------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        assert self._process is not None, "the daemon is not running"
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = (self.folder / "lxd.out").open("ab")
        with log:
            self._process = subprocess.Popen(
                ["lxd", "--group", "root", "--logfile", str(self.folder / "lxd.log")],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        subprocess.run(["lxd", "waitready", "--timeout=60"], env=self._environment, check=True, timeout=70)

    def set_up(self) -> None:
        """A storage pool and the image."""
        subprocess.run(["lxd", "init", "--preseed"], input=_PRESEED.encode(), env=self._environment, check=True)
        image = self.folder / "image.tar.gz"
        _build_image(image)
        self.lxc("image", "import", str(image), "--alias", _IMAGE)

    def kill(self) -> None:
        """SIGKILL. Its containers go on running."""
        os.kill(self.pid, signal.SIGKILL)
        self._ended()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """SIGSTOP while the block runs."""
        os.kill(self.pid, signal.SIGSTOP)
        self._stands_still()
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def _stands_still(self) -> None:
        """Wait until each thread is stopped (T): the signal reaches them one by one."""
        deadline = time.monotonic() + 10

        def moves(thread: Path) -> bool:
            try:
                return (thread / "stat").read_text().rpartition(")")[2].split()[0] != "T"
            except OSError:
                return False  # it has ended

        while any(moves(each) for each in Path(f"/proc/{self.pid}/task").iterdir()):
            assert time.monotonic() < deadline, "the daemon does not stop"
            time.sleep(0.005)

    @contextmanager
    def hung_when(self) -> Iterator[Callable[[], None]]:
        """A function that stops the daemon; it goes on at the end of the block."""
        try:
            yield lambda: os.kill(self.pid, signal.SIGSTOP)
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End everything, and remove it."""
        try:
            if self._process is None:
                self.start()
            for row in self.instances():
                self._delete(row["name"])
        finally:
            if self._process is not None:
                os.kill(self.pid, signal.SIGTERM)
                self._ended()
            self._unmount()
            shutil.rmtree(self.folder)

    def _delete(self, name: str) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self.lxc("delete", "--force", name)
            except AssertionError as error:
                # One that failed to start, say, is "busy" for some seconds.
                if "is busy" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def _ended(self) -> None:
        assert self._process is not None
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(30)
        self._process = None

    def _unmount(self) -> None:
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for place in reversed(mounted):
            if place.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", place], check=True)

    # -- instances ---------------------------------------------------------------------------------------------------

    def lxc(self, *arguments: str, timeout: float = 60.0, check: bool = True) -> str:
        """Run `lxc`, and return what it prints."""
        done = self.lxc_process(*arguments)
        try:
            output, _ = done.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            done.kill()
            done.communicate()
            raise
        if check and done.returncode:
            raise AssertionError(f"lxc {' '.join(arguments)} ended with {done.returncode}: {output}")
        return output

    def lxc_process(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin running `lxc`."""
        return subprocess.Popen(
            ["lxc", *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def instances(self) -> list[dict[str, str]]:
        listed: list[dict[str, str]] = json.loads(self.lxc("list", "--format=json"))
        return listed

    def launch(self, name: str) -> str:
        """A new running instance."""
        self.lxc("launch", "-q", _IMAGE, name)
        return name

    def create(self, name: str) -> str:
        """A new stopped instance."""
        self.lxc("init", "-q", _IMAGE, name)
        return name

    def run_in(self, name: str, command: str) -> str:
        """Run a shell command in a running instance, and return what it prints."""
        return self._enter(name, "/bin/sh", "-c", command).decode()

    def read(self, name: str, path: str) -> bytes:
        """A file's content, as seen from inside a running instance."""
        return self._enter(name, "/bin/cat", path)

    def _enter(self, name: str, *command: str) -> bytes:
        # `lxc exec` would now and then lose what the command printed, and takes 20 times as long.
        pid = json.loads(self.lxc("query", f"/1.0/instances/{name}/state"))["pid"]
        enter = [
            require_program("nsenter", "util-linux"),
            f"--target={pid}",
            "--all",
            "--root",
            "--wd",
            "--setuid=0",
            "--setgid=0",
            "--",
        ]
        environment = {"PATH": "/bin:/sbin:/usr/bin:/usr/sbin"}
        done = subprocess.run([*enter, *command], env=environment, capture_output=True, timeout=60)
        if done.returncode:
            raise AssertionError(f"{command} in {name} ended with {done.returncode}: {done.stderr.decode()}")
        return done.stdout

    def temps(self, name: str) -> str:
        """Temps of ours anywhere in a running instance."""
        places = "/ $([ ! -d /small ] || echo /small)"
        return self.run_in(name, f"find {places} -xdev -name '.longshore-*'")


def _build_image(path: Path) -> None:
    """A container image of busybox alone."""
    busybox = Path(require_program("busybox", "busybox-static"))
    applets = subprocess.run([busybox, "--list-full"], capture_output=True, text=True, check=True).stdout.split()
    metadata = f"architecture: {os.uname().machine}\ncreation_date: {int(time.time())}\nproperties: {{os: busybox}}\n"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        _add(tar, "metadata.yaml", metadata.encode())
        _add(tar, "rootfs", None)
        for folder in _FOLDERS:
            _add(tar, f"rootfs/{folder}", None, mode=0o1777 if folder == "tmp" else 0o755)
        _add(tar, "rootfs/bin/busybox", busybox.read_bytes(), mode=0o755)
        for applet in applets:
            if applet != "bin/busybox" and str(Path(applet).parent) in _FOLDERS:
                link = tarfile.TarInfo(f"rootfs/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "/bin/busybox"
                tar.addfile(link)
        _add(tar, "rootfs/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        _add(tar, "rootfs/etc/group", b"root:x:0:\n")
        _add(tar, "rootfs/etc/inittab", b"::sysinit:/bin/true\n::respawn:/bin/sleep 86400\n")


def _add(tar: tarfile.TarFile, name: str, content: bytes | None, *, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.mode = mode if content is not None or mode != 0o644 else 0o755
    if content is None:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    else:
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def _start() -> LxdDaemon:
    require_root()
    require_program("lxd", "lxd")
    require_program("lxc", "lxd-client")
    for table in ("/etc/subuid", "/etc/subgid"):
        listed = Path(table).read_text() if Path(table).exists() else ""
        require("root:" in listed, f"ids for containers: a line root:100000:65536 in {table}")
    # Short: the socket's path must fit into 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ls-lxd-", dir="/tmp"))
    folder.chmod(0o711)  # a container's root is nobody to the host, and has to get through
    daemon = LxdDaemon(folder)
    try:
        daemon.start()
        daemon.set_up()
    except BaseException:
        daemon.close()
        raise
    return daemon


@contextmanager
def running_lxd() -> Iterator[LxdDaemon]:
    """A daemon while the block runs."""
    daemon = _start()
    try:
        yield daemon
    finally:
        daemon.close()


@pytest.fixture(scope="session")
def lxd() -> Iterator[LxdDaemon]:
    """A daemon for the whole session. Tests that kill or stop it use `lxd_of_my_own`."""
    with running_lxd() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def box(lxd: LxdDaemon) -> str:
    """A running instance that tests share: each uses paths of its own."""
    return lxd.launch("box")


@pytest.fixture
def lxd_of_my_own() -> Iterator[LxdDaemon]:
    """A daemon for one test, to be broken."""
    with running_lxd() as daemon:
        yield daemon
