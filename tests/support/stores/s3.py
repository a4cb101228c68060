"""An object store of the tests' own: moto's server as a process, with buckets in memory."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import obstore
import pytest
from obstore.store import S3Store

WITHIN = 30.0
"""Seconds for the server to start or to stop."""

BUCKET = "longshore-tests"
ENVIRONMENT: Mapping[str, str] = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "not a secret",
    "AWS_METADATA_ENDPOINT": "http://127.0.0.1:1",  # no test asks the machine for a role
}
"""`--spool s3://` needs this environment; the endpoint is in the URL."""

_REQUEST = re.compile(rb"\A(?:GET|PUT|POST|HEAD|DELETE) /\S* HTTP/1\.1\r\n")
_READY = re.compile(r"Running on http://127\.0\.0\.1:(\d+)")


class ObjectStore:
    """One server. `stop` and `start` keep its port, and lose its objects."""

    def __init__(self, log: Path, *, refusing: bool = False) -> None:
        """`refusing`: it knows none of the credentials that it is shown."""
        self._log = log
        # This counts the requests before any caller is asked who it is; one makes the bucket.
        self._environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "1"} if refusing else None
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Wait until it listens, with an empty bucket."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self._environment,
            )
        deadline = time.monotonic() + WITHIN
        while (ready := _READY.search(self._log.read_text())) is None:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise AssertionError(self._log.read_text()[-3000:])
            time.sleep(0.02)
        self.port = int(ready[1])
        self.make_bucket(BUCKET)

    def stop(self) -> None:
        """At once: requests under way are cut."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(WITHIN)
            self._process = None

    def signal(self, number: int) -> None:
        """SIGSTOP: it takes connections and answers nothing; SIGCONT: it goes on."""
        assert self._process is not None, "not running"
        os.kill(self._process.pid, number)

    def make_bucket(self, name: str) -> None:
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        with urllib.request.urlopen(request, timeout=WITHIN) as answer:
            assert answer.status == 200

    def fresh_url(self) -> str:
        """A `--spool` that nobody has used."""
        return f"s3://{BUCKET}/spool-{next(self._numbers)}?endpoint={self.endpoint}&region=us-east-1"


def client(url: str) -> S3Store:
    """The objects of a `--spool`, for a test that looks at them or damages them; names are below its prefix."""
    parts = urlsplit(url)
    endpoint = dict(pair.split("=", 1) for pair in parts.query.split("&"))["endpoint"]
    return S3Store(
        parts.netloc,
        prefix=parts.path.strip("/"),
        endpoint=endpoint,
        region="us-east-1",
        access_key_id=ENVIRONMENT["AWS_ACCESS_KEY_ID"],
        secret_access_key=ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": True},
    )


def objects(url: str) -> dict[str, int]:
    """Name and size of every object of a spool."""
    found: dict[str, int] = {}
    for page in obstore.list(client(url)):
        found.update((entry["path"], entry["size"]) for entry in page)
    return found


def leftovers(url: str) -> list[str]:
    """Objects but its identity: nothing should be here when every task has succeeded."""
    return sorted(name for name in objects(url) if name != "identity")


@contextmanager
def running_object_store(*, refusing: bool = False) -> Iterator[ObjectStore]:
    with tempfile.TemporaryDirectory(prefix="longshore-s3-") as folder:
        store = ObjectStore(Path(folder) / "log", refusing=refusing)
        store.start()
        try:
            yield store
        finally:
            store.stop()


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """A running object store for all tests of the session. Whoever breaks it takes `own_object_store`."""
    with running_object_store() as store:
        yield store


@pytest.fixture
def own_object_store() -> Iterator[ObjectStore]:
    """A running object store for this test alone."""
    with running_object_store() as store:
        yield store


@pytest.fixture
def s3_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials for this process and those that it starts."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3_spool_url(object_store: ObjectStore, s3_environment: None) -> str:
    """A `--spool` that nobody has used, and the credentials for it in the environment."""
    return object_store.fresh_url()


class Meddler:
    """A relay before an object store that changes bytes on the way, as no honest network does.

    `up` and `down` replace a pattern in what is sent to the store and in what comes back; `refusing` cuts new
    connections and those there are. A context manager; its loop is the caller's.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.up: tuple[bytes, bytes] | None = None
        self.down: tuple[bytes, bytes] | None = None
        self.refusing = False
        self.requests = 0
        """HTTP requests that went to the store."""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.endpoint = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def refuse(self) -> None:
        self.refusing = True
        for task in self._tasks:
            task.cancel()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if not self.refusing:
                await self._both(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # either side hung up, or it was told to
        finally:
            writer.close()

    async def _both(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_store, to_store = await asyncio.open_connection("127.0.0.1", self._store.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._flow(reader, to_store, lambda: self.up))
                group.create_task(self._flow(from_store, writer, lambda: self.down))
        except* OSError:
            pass
        finally:
            to_store.close()

    async def _flow(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        change: Callable[[], tuple[bytes, bytes] | None],
    ) -> None:
        while piece := await reader.read(256 * 1024):
            self.requests += len(_REQUEST.findall(piece))
            if (pair := change()) is not None:
                piece = re.sub(pair[0], pair[1], piece)
            writer.write(piece)
            await writer.drain()
        writer.close()
