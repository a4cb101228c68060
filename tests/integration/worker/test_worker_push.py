"""A worker delivers files from a scripted server into a directory of instance roots."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from longshore.v1 import worker_service_pb2 as ws
from tests.support.servers.fakeserver import names, push
from tests.support.workers.gate import until
from tests.support.workers.working import Start


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


async def test_a_lost_push_is_settled_by_removing_its_temp(start: Start, tmp_path: Path) -> None:
    roots = tmp_path / "roots"
    (roots / "c1").mkdir(parents=True)
    server, _ = await start(targets=(f"default=directory:{roots}",))
    server.payloads["T1"] = b"content"
    peer = await server.peer()

    # The first attempt tells the name of a temp; its grant is refused, so that it is gone, and is put there again.
    ref = peer.assign(push("T1", "c1", "/file", b"content"))
    asked = await peer.grant_request()
    peer.grant(ref, granted=False, reason="STALE")
    await peer.report()
    temp = roots / "c1" / asked.temp.lstrip("/")
    temp.write_bytes(b"content")
    order = ws.SettleOrder(
        granted_attempt=1,
        temp=asked.temp,
        crc32c=asked.crc32c,
        mode=asked.mode,
        uid=asked.uid,
        gid=asked.gid,
        delivery_method=asked.delivery_method,
    )
    peer.assign(push("T1", "c1", "/file", b"content"), attempt=2, settle=order)
    assert (await peer.report()).outcome == ws.OUTCOME_SETTLED_REMOVED
    assert not temp.exists()

    peer.assign(push("T1", "c1", "/file", b"content"), attempt=3, settle=order)
    assert (await peer.report()).outcome == ws.OUTCOME_SETTLED_NEITHER

    (roots / "c1/file").write_bytes(b"content")
    (roots / "c1/file").chmod(asked.mode)
    peer.assign(push("T1", "c1", "/file", b"content"), attempt=4, settle=order)
    assert (await peer.report()).outcome == ws.OUTCOME_SETTLED_LANDED


async def test_debts_are_paid_and_unpayable_ones_said_to_be(start: Start, tmp_path: Path) -> None:
    roots = tmp_path / "roots"
    (roots / "c1").mkdir(parents=True)
    server, _ = await start(targets=(f"default=directory:{roots}",))
    server.payloads["T1"] = b"content"
    peer = await server.peer()
    ref = peer.assign(push("T1", "c1", "/file", b"content"))
    asked = await peer.grant_request()
    peer.grant(ref, granted=False, reason="STALE")
    await peer.report()
    temp = roots / "c1" / asked.temp.lstrip("/")
    temp.write_bytes(b"left behind")
    (roots / "c1/precious").write_bytes(b"somebody's")

    where = ws.InstanceRef(target="default", instance="c1")
    peer.say(debts=[ws.Debt(debt_id="D1", instance=where, temps=[asked.temp])])
    assert await peer.debt() == ws.DebtReport(debt_id="D1", paid=True)
    assert not temp.exists()
    peer.say(debts=[ws.Debt(debt_id="D2", instance=where, temps=["/precious"])])
    assert await peer.debt() == ws.DebtReport(debt_id="D2", paid=False)
    assert (roots / "c1/precious").exists()
    peer.say(debts=[ws.Debt(debt_id="D3", instance=ws.InstanceRef(target="other", instance="c1"), temps=["/t"])])
    assert await peer.debt() == ws.DebtReport(debt_id="D3", paid=False)


async def test_a_parked_instance_is_reported_as_soon_as_it_exists(start: Start, tmp_path: Path) -> None:
    roots = tmp_path / "roots"
    (roots / "there").mkdir(parents=True)
    server, _ = await start(targets=(f"default=directory:{roots}",))
    peer = await server.peer()
    waits = [ws.InstanceRef(target="default", instance=name) for name in ("there", "coming")]
    peer.say(parked=[ws.ParkedInstances(target="default", instances=waits)])
    ready = await peer.ready()
    assert ready.instance == waits[0]
    (roots / "coming").mkdir()
    while (ready := await peer.ready()).instance != waits[1]:
        assert ready.instance == waits[0]
    # Nobody waits any more: the watch ends, and nothing is said.
    peer.say(parked=[ws.ParkedInstances(target="default")])
    await until(lambda: not any("watch" in thread.name for thread in threading.enumerate()))
