"""The makes of spool that the conformance suite holds to one promise, and how a test disturbs each from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import obstore

from longshore.server.spool.directory.spool import DirectorySpool
from longshore.server.spool.objects.bucket import Objects
from longshore.server.spool.objects.spool import ObjectSpool
from longshore.server.spool.objects.staging import Staging
from longshore.server.spool.protocol import Spool
from tests.support.stores import s3

Now = Callable[[], float]


class SpoolKind(Protocol):
    """One place of one make."""

    shared: bool
    """Several servers may have it at the same time."""

    def spool(self, *, database: str = "", now: Now | None = None, reserve: int = 0) -> Spool:
        """Another server's view of it, still to be opened."""
        ...

    def left(self) -> list[str]:
        """Everything that is there but the identity and what is in the trash."""
        ...

    def trash(self) -> list[str]: ...

    def remove(self, one: str) -> None:
        """Lose a file or object of an upload or payload, as no server does."""
        ...

    def shorten(self, one: str) -> None:
        """Lose the last byte of one."""
        ...


class DirectoryKind:
    def __init__(self, root: Path, *, shared: bool) -> None:
        self.root = root
        self.shared = shared

    def spool(self, *, database: str = "", now: Now | None = None, reserve: int = 0) -> Spool:
        return DirectorySpool(
            root=self.root, shared=self.shared, database=database, reserve=reserve, now=now or time.time
        )

    def left(self) -> list[str]:
        folders = self.root / "uploads", self.root / "payloads"
        return sorted(path.name for folder in folders for path in folder.rglob("*") if path.is_file())

    def trash(self) -> list[str]:
        return sorted(path.name for path in (self.root / "trash").iterdir())

    def remove(self, one: str) -> None:
        self._file(one).unlink()

    def shorten(self, one: str) -> None:
        path = self._file(one)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 1)

    def _file(self, one: str) -> Path:
        (path,) = (path for path in self.root.rglob(f"{one}*") if path.is_file())
        return path


class ObjectKind:
    shared = True

    def __init__(self, url: str, staging: Path, *, endpoint: str = "") -> None:
        """`endpoint`: where the spool finds it, when that is not where the test does."""
        self.url = url
        self._endpoint = endpoint
        self._staging = staging

    def spool(self, *, database: str = "", now: Now | None = None, reserve: int = 0) -> Spool:
        parts = urlsplit(self.url)
        endpoint = dict(pair.split("=", 1) for pair in parts.query.split("&"))["endpoint"]
        objects = Objects(
            bucket=parts.netloc,
            prefix=parts.path.strip("/"),
            endpoint=self._endpoint or endpoint,
            region="us-east-1",
            plain=True,
        )
        return ObjectSpool(
            objects=objects,
            staging=Staging(self._staging, reserve=reserve),
            where="s3://here",
            database=database,
            now=now or time.time,
        )

    def left(self) -> list[str]:
        return sorted(name for name in s3.objects(self.url) if name.startswith("payloads/"))

    def trash(self) -> list[str]:
        return sorted(name for name in s3.objects(self.url) if name.startswith("trash/"))

    def remove(self, one: str) -> None:
        obstore.delete(s3.client(self.url), self._last(one))

    def shorten(self, one: str) -> None:
        store, name = s3.client(self.url), self._last(one)
        content = obstore.get(store, name).bytes().to_bytes()
        obstore.put(store, name, content[:-1])

    def _last(self, one: str) -> str:
        return max(name for name in s3.objects(self.url) if f"/{one}/" in name)
