"""P1, P2, P5, P12: the server killed right before or after each step of an upload. Nothing is lost, doubled or left."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from longshore.client import Client, push_spec
from longshore.client.errors import LongshoreError
from longshore.v1 import task_pb2
from tests.support.servers.processes import ServerProcess, WorkerProcess, eventually
from tests.support.stores.backends import CLUSTER, EMBEDDED

UPLOADS, STREAM = ("engine.uploads.uploads", "Uploads"), ("engine.uploads.stream", "UploadStream")
SPOOL = {EMBEDDED: ("spool.directory.spool", "DirectorySpool"), CLUSTER: ("spool.objects.spool", "ObjectSpool")}
PARTIAL = {
    EMBEDDED: ("spool.directory.partial", "DirectoryPartial"),
    CLUSTER: ("spool.objects.partial", "ObjectPartial"),
}
Owner = tuple[str, str] | dict[str, tuple[str, str]]
STEPS: dict[str, tuple[Owner, str, str]] = {
    "the upload is admitted": (UPLOADS, "_admit", "after"),
    "its file is made": (SPOOL, "create", "after"),
    "its bytes are synced": (PARTIAL, "sync", "after"),
    "a checkpoint is committed": (STREAM, "_mark", "after"),
    "it is about to be sealed": (PARTIAL, "seal", "before"),
    "it is sealed": (PARTIAL, "seal", "after"),
    "its task is committed and not answered": (STREAM, "_complete", "after"),
    "its payload is about to be removed": (SPOOL, "delete_payload", "before"),
    "its payload is removed": (SPOOL, "delete_payload", "after"),
}
SCRIPT = """
import importlib, inspect, os, signal, sys
module, owner, name, when = sys.argv[1:5]
del sys.argv[1:5]
from longshore.server import main
cls = getattr(importlib.import_module("longshore.server." + module), owner)
step = getattr(cls, name)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def deadly(*args, **options):
    if when == "before":
        die()
    step(*args, **options)
    die()

async def deadly_later(*args, **options):
    if when == "before":
        die()
    await step(*args, **options)
    die()

setattr(cls, name, deadly_later if inspect.iscoroutinefunction(step) else deadly)
main.main()
"""
SIZE = 34 << 20
"""Above the 32 MiB after which a checkpoint is due."""


@pytest.mark.parametrize("step", STEPS)
def test_a_server_that_is_killed_when(tmp_path: Path, backend: str, step: str) -> None:
    script = tmp_path / "deadly.py"
    script.write_text(SCRIPT)
    content = os.urandom(SIZE)
    instances = tmp_path / "instances"
    (instances / "web").mkdir(parents=True)
    server = ServerProcess(tmp_path)
    whole = server.argv
    owner, name, when = STEPS[step]
    module, kind = owner[backend] if isinstance(owner, dict) else owner
    server.argv = [sys.executable, str(script), module, kind, name, when, *whole[3:]]

    def push(*, patience: float) -> str:
        with Client(server=server.address, token_file=server.token_file, patience=patience) as client:
            return client.upload(content, spec=push_spec("web/file"), request_id="r")[0].id

    with server, WorkerProcess(server, targets=[f"default=directory:{instances}"]):
        try:
            accepted = push(patience=0.0)
        except LongshoreError:
            accepted = ""
        server.process.wait(20)
        server.argv = whole
        server.start()
        task_id = push(patience=20.0)
        assert not accepted or task_id == accepted
        with Client(server=server.address, token_file=server.token_file) as client:
            assert client.wait(task_id).state == task_pb2.TASK_STATE_SUCCEEDED
            assert (instances / "web" / "file").read_bytes() == content
            assert [task.id for task in client.list()] == [task_id]
            eventually(lambda: not server.leftovers(), what="an empty spool")
            eventually(lambda: client.stats().spool_bytes == 0, what="figures of an empty spool")
            assert client.stats().uploads == 0
