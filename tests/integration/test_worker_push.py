"""A worker delivers files from a scripted server into a directory of instance roots."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from longshore.v1 import worker_service_pb2 as ws
from tests.support.fakeserver import names, push
from tests.support.working import Start, workers


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    async with workers(tmp_path) as begin:
        yield begin


async def test_a_file_is_downloaded_granted_and_put_in_place(start: Start, tmp_path: Path) -> None:
    roots = tmp_path / "roots"
    (roots / "c1/etc").mkdir(parents=True)
    server, _ = await start(targets=(f"default=directory:{roots}",))
    content = os.urandom(3_000_000)
    server.payloads["T1"] = content
    peer = await server.peer()
    assert [target.name for target in peer.hello.targets] == ["default"]
    assert peer.hello.targets[0].identity
    assert ("file_push", True) in {(kind.name, kind.settles) for kind in peer.hello.kinds}

    ref = peer.assign(push("T1", "c1", "/etc/config", content, mode=0o640))
    asked = await peer.grant_request()
    assert names([asked.attempt]) == {("T1", 1)}
    assert asked.temp.startswith("/etc/")
    assert not (roots / "c1/etc/config").exists()
    peer.grant(ref)
    report = await peer.report()

    assert report.outcome == ws.OUTCOME_OK, report.error
    assert (roots / "c1/etc/config").read_bytes() == content
    assert [path.name for path in (roots / "c1/etc").iterdir()] == ["config"]


async def test_a_refused_grant_leaves_nothing_behind(start: Start, tmp_path: Path) -> None:
    roots = tmp_path / "roots"
    (roots / "c1").mkdir(parents=True)
    server, _ = await start(targets=(f"default=directory:{roots}",))
    server.payloads["T1"] = b"new"
    (roots / "c1/file").write_bytes(b"old")
    peer = await server.peer()

    ref = peer.assign(push("T1", "c1", "/file", b"new"))
    await peer.grant_request()
    peer.grant(ref, granted=False, reason="CANCELLED")
    report = await peer.report()

    assert report.outcome == ws.OUTCOME_STOPPED
    assert {path.name: path.read_bytes() for path in (roots / "c1").iterdir()} == {"file": b"old"}
