"""A payload on a disk that is shared is read once, and not copied on its way to a target."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import google_crc32c

from longshore.v1 import task_pb2
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.attempts import payloads
from longshore.worker.attempts.attempt import Attempt
from longshore.worker.targets.base import CHUNK, chunks


class NoDownloads:
    def open(self, attempt: Attempt, offset: int) -> Generator[bytes]:
        raise AssertionError(f"{attempt.key} is downloaded from byte {offset}")


def test_chunks_are_the_very_bytes_that_were_read(tmp_path: Path) -> None:
    content = os.urandom(3 * CHUNK + 1)
    path = tmp_path / "payload"
    path.write_bytes(content)
    described = task_pb2.Payload(size=len(content), crc32c=google_crc32c.value(content))
    assignment = ws.Assignment(task=task_pb2.Task(id="t", payload=described), attempt=1, payload_path=os.fspath(path))
    attempt = Attempt(assignment, ask=lambda attempt, request: None)
    read: list[bytes] = []

    def recorded() -> Generator[bytes]:
        for piece in payloads.pieces(attempt, NoDownloads(), offset=0):
            read.append(piece)
            yield piece

    with payloads.PayloadStream(attempt, recorded(), offset=0) as stream:
        taken = list(chunks(stream))
    assert b"".join(taken) == content
    assert [len(piece) for piece in read] == [CHUNK, CHUNK, CHUNK, 1]
    assert all(one is other for one, other in zip(taken, read, strict=True))
