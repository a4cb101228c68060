"""The text of docs/handlers.md is run as it stands there."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from google.protobuf.wrappers_pb2 import Int64Value, StringValue

import longshore.worker
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker import AsyncContext, Context
from tests.support.process import started
from tests.support.servers.fakeserver import job, serving


def example(tree: Path) -> tuple[str, str, list[str]]:
    """The first block of Python, the file that its first line names, and the command below it."""
    text = (tree / "docs/handlers.md").read_text()
    found = re.search(r"```python\n# (\w+\.py)\n(.*?)```\n\n    (longshore-worker [^\n]*)\n", text, re.DOTALL)
    assert found is not None
    return found[1], found[2], found[3].split()


def test_every_name_that_the_page_imports_or_raises_is_public(tree: Path) -> None:
    text = (tree / "docs/handlers.md").read_text()
    imported = {
        name for names in re.findall(r"from longshore\.worker import ([\w, ]+)", text) for name in names.split(", ")
    }
    named = set(re.findall(r"\b(?:[A-Z][a-z]+)+Error\b|\bAttemptStopped\b|\bOutcomeUnknown\b|\bWorkerConfig\b", text))
    assert {"Context", "SettleOrder", "TransientError", "WorkerConfig"} <= imported | named
    assert (imported | named) <= set(longshore.worker.__all__)
    assert all(hasattr(longshore.worker, name) for name in longshore.worker.__all__)


def test_the_contexts_have_the_documented_members_and_the_same_ones(tree: Path) -> None:
    text = (tree / "docs/handlers.md").read_text()
    names = set(re.findall(r"`context\.(\w+)", text))
    assert {"commit", "payload_path", "check"} <= names
    public = [{name for name in dir(kind) if not name.startswith("_")} for kind in (Context, AsyncContext)]
    assert names <= public[0]
    assert public[0] == public[1]


async def test_the_documented_kind_runs(tree: Path, tmp_path: Path) -> None:
    name, source, command = example(tree)
    assert len(source.splitlines()) < 30
    (tmp_path / name).write_text(source)
    command[0] = str(Path(sys.executable).with_name(command[0]))
    payload = b"a ship is safe in harbour\nbut that is not what a ship is built for\n"
    async with serving() as server:
        server.payloads["T1"] = payload
        environment = {
            "LONGSHORE_SERVER": server.address,
            "LONGSHORE_TOKEN": "t" * 20,
            "XDG_RUNTIME_DIR": str(tmp_path),
            "PATH": os.environ["PATH"],
        }
        async with started(command, tmp_path, environment):
            peer = await server.peer()
            assert [kind.name for kind in peer.hello.kinds] == ["wordcount"]
            peer.assign(job("T1", "wordcount", StringValue(value="ship"), payload=payload))
            report = await peer.report()
            assert report.outcome == ws.OUTCOME_OK, report.error
            count = Int64Value()
            assert report.result.Unpack(count)
            assert count.value == 2

            peer.assign(job("T2", "wordcount", StringValue(), payload=payload))
            report = await peer.report()
            assert (report.outcome, report.error.reason) == (ws.OUTCOME_PERMANENT, "NO_WORD")
