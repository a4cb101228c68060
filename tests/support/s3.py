"""An object store of the tests' own: moto's server as a process, with buckets in memory."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
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
"""What the environment must say for `--spool s3://`; the endpoint is in the URL."""

_READY = re.compile(r"Running on http://127\.0\.0\.1:(\d+)")


class ObjectStore:
    """One server. `stop` and `start` keep its port, and lose its objects."""

    def __init__(self, log: Path) -> None:
        self._log = log
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
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
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
def running_object_store() -> Iterator[ObjectStore]:
    with tempfile.TemporaryDirectory(prefix="longshore-s3-") as folder:
        store = ObjectStore(Path(folder) / "log")
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
