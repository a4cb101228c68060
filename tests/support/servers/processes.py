"""Real server and worker processes for tests: own directories, own sockets, ended by pid."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
import sqlalchemy as sa
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.stores import backends

START = 60.0
"""Seconds in which a process must be ready on a busy machine."""


def eventually(look: Callable[[], Any], *, within: float = START, what: str = "") -> Any:
    """The first truthy answer of `look`; fails the test when there is none within the time."""
    deadline = time.monotonic() + within
    while True:
        if answer := look():
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what or look}")
        time.sleep(0.02)


class Process:
    """A child process with a log file. Leaving the context kills it."""

    def __init__(
        self, *, name: str, root: Path, argv: Sequence[str], environment: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.root = root
        self.argv = list(argv)
        self.log_path = root / f"{name}.log"
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self.kill()

    def start(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of the process: this process's, without the variables of Longshore, and its own."""
        return {k: v for k, v in os.environ.items() if not k.startswith("LONGSHORE_")} | self._environment

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """kill -9, and wait for its end."""
        self.process.kill()
        self.process.wait(10)

    def terminate(self, *, within: float = 40.0) -> int:
        """SIGTERM; its exit code."""
        self.process.terminate()
        return self.process.wait(within)

    def stop(self) -> None:
        """SIGSTOP: it stands still."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stopped(self) -> bool:
        """Return whether the process stands still (state T)."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def resident(self, *, peak: bool = False) -> int:
        """Resident bytes, now or at most so far."""
        field = "VmHWM:" if peak else "VmRSS:"
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"{self.name} is gone")

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def events(self, event: str | None = None) -> Iterator[dict[str, Any]]:
        """Structured log records, those named `event` or all."""
        for line in self.log().splitlines():
            if line.startswith("{"):
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # the half line of a killed process
                if event is None or record.get("event") == event:
                    yield record


class ServerProcess(Process):
    """A longshored on a unix socket in its own data directory, on the test's backend unless the options say where."""

    def __init__(
        self, root: Path, *options: str, name: str = "server", environment: dict[str, str] | None = None
    ) -> None:
        self.data = root / "data"
        self.socket = root / "s.sock"
        self.address = f"unix:{self.socket}"
        backend = backends.Embedded() if backends.named(options) else backends.current()
        self._place = backend.place(self, self.data)
        argv = [sys.executable, "-m", "longshore.server.main", "--data-dir", str(self.data), "--listen", self.address]
        super().__init__(
            name=name,
            root=root,
            argv=[*argv, *self._place.options, *options],
            environment={**self._place.environment, **(environment or {})},
        )

    @property
    def token_file(self) -> Path:
        return self.data / "token"

    @property
    def token(self) -> str:
        return self.token_file.read_text().strip()

    @property
    def database(self) -> str:
        """Return the server's `--database`, in full where it was not given one."""
        return self._given("--database") or f"sqlite:///{self.data}/longshore.db"

    @property
    def spool(self) -> str:
        """Return the server's `--spool`, in full where it was not given one."""
        return self._given("--spool") or f"file://{self.data}/spool"

    def _given(self, option: str) -> str:
        return next((after for word, after in itertools.pairwise(self.argv) if word == option), "")

    def execute(self, sql: str) -> Sequence[Sequence[Any]]:
        """A statement of an operator, in its database."""
        engine = sa.create_engine(self.database.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool)
        with engine.begin() as connection:
            done = connection.execute(sa.text(sql))
            return done.all() if done.returns_rows else []

    def start(self) -> None:
        """Start, and return when it serves. One that does not is ended: its context is not entered, nor left."""
        super().start()
        try:
            self._until_it_serves()
        except BaseException:
            self.process.kill()
            self.process.wait(10)
            raise

    def _until_it_serves(self) -> None:
        deadline = time.monotonic() + START
        while not self.serving():
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log()[-4000:]}")
            if time.monotonic() > deadline:
                raise AssertionError(f"the server does not serve:\n{self.log()[-4000:]}")
            time.sleep(0.02)

    def serving(self) -> bool:
        """Return whether the server's health says SERVING."""
        if not self.socket.exists():
            return False
        with grpc.insecure_channel(self.address) as channel:
            try:
                health: Any = health_pb2_grpc.HealthStub(channel)
                answer = health.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def leftovers(self) -> list[Any]:
        """List the spool's content but its identity. The list should be empty when every task has succeeded."""
        return list(self._place.leftovers())

    def spooled(self) -> bytes:
        """The bytes of all that."""
        return self._place.content()


class WorkerProcess(Process):
    """A longshore-worker, or a script that makes one with the SDK."""

    def __init__(
        self,
        server: ServerProcess,
        *options: str,
        targets: Sequence[str] = (),
        name: str = "worker",
        address: str = "",
        script: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """With an `address` it connects there: through a proxy, or to several servers."""
        start = [sys.executable, str(script)] if script is not None else [sys.executable, "-m", "longshore.worker.main"]
        argv = [*start, "--server", address or server.address, "--token-file", str(server.token_file)]
        argv += ["--data-dir", str(server.root / name), "--name", name]
        for target in targets:
            argv += ["--target", target]
        super().__init__(name=name, root=server.root, argv=[*argv, *options], environment=environment)


def temps_under(root: Path) -> list[Path]:
    """Temps of deliveries that are still there."""
    return [path for path in root.rglob(".longshore-*") if path.is_file()]
