"""A handler's payload: resumed after a cut, checked at its end, taken from the spool if at hand, and cleared away."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from longshore.client import TLS
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker import AsyncContext, Context, Registry
from tests.support.servers.certificates import Authority
from tests.support.servers.certificates import replace as replace_file
from tests.support.servers.fakeserver import WITHIN, FakeServer, WorkerPeer, job, serving
from tests.support.workers.gate import until
from tests.support.workers.working import Start

SIZE = 3_000_000


class Readers:
    """Kinds that answer with the SHA-256 of their payload, each in its own way; `paths` are the files they got."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.paths: list[Path] = []
        self.registry.add("path", self.path)
        self.registry.add("stream", self.stream)
        self.registry.add("rest", self.rest)
        self.registry.add("async-path", self.async_path)
        self.registry.add("async-stream", self.async_stream)

    def path(self, context: Context) -> StringValue:
        self.paths.append(context.payload_path())
        assert context.payload_path() == self.paths[-1]
        return StringValue(value=hashlib.sha256(self.paths[-1].read_bytes()).hexdigest())

    def stream(self, context: Context) -> StringValue:
        digest = hashlib.sha256()
        with context.open_payload() as stream:
            while piece := stream.read(100_000):
                assert len(piece) <= 100_000
                digest.update(piece)
        return StringValue(value=digest.hexdigest())

    def rest(self, context: Context) -> StringValue:
        return StringValue(value=hashlib.sha256(context.open_payload(1_000_001).read()).hexdigest())

    async def async_path(self, context: AsyncContext) -> StringValue:
        self.paths.append(await context.payload_path())
        return StringValue(value=hashlib.sha256(self.paths[-1].read_bytes()).hexdigest())

    async def async_stream(self, context: AsyncContext) -> StringValue:
        digest = hashlib.sha256()
        async for piece in await context.open_payload():
            digest.update(piece)
        return StringValue(value=digest.hexdigest())


KINDS = ("path", "stream", "async-path", "async-stream")


async def digest_of(peer: WorkerPeer) -> str:
    report = await peer.report()
    assert report.outcome == ws.OUTCOME_OK, report.error
    value = StringValue()
    assert report.result.Unpack(value)
    return value.value


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cut_download_resumes(start: Start, tmp_path: Path, kind: str) -> None:
    readers = Readers()
    server, worker = await start(readers.registry)
    content = os.urandom(SIZE)
    server.payloads["T1"] = content
    server.cuts.extend([1_000_000, 300_000, 1])
    peer = await server.peer()
    peer.assign(job("T1", kind, payload=content))
    assert await digest_of(peer) == hashlib.sha256(content).hexdigest()
    offsets = [request.offset for request in server.downloads]
    assert len(offsets) == 4
    assert offsets == sorted(set(offsets))
    assert {request.session_id for request in server.downloads} == {worker.session_id}
    assert server.tokens == ["Bearer " + "t" * 20] * 5
    assert not any(path.exists() for path in readers.paths)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_small_payload_that_came_along_is_not_downloaded(start: Start, kind: str) -> None:
    server, _ = await start(Readers().registry)
    peer = await server.peer()
    peer.assign(job("T1", kind, payload=b"small"), payload=b"small")
    assert await digest_of(peer) == hashlib.sha256(b"small").hexdigest()
    assert not server.downloads


@pytest.mark.parametrize("wrong", [b"smal", b"small!"])
async def test_a_spool_file_of_another_size_is_not_used(start: Start, wrong: bytes) -> None:
    server, _ = await start(Readers().registry)
    server.payloads["T1"] = b"small"
    peer = await server.peer()
    peer.assign(job("T1", "stream", payload=b"small"), payload=wrong)
    assert await digest_of(peer) == hashlib.sha256(b"small").hexdigest()
    assert len(server.downloads) == 1


async def test_a_damaged_inline_payload_is_found_and_downloaded_next_time(start: Start) -> None:
    server, _ = await start(Readers().registry)
    server.payloads["T1"] = b"small"
    peer = await server.peer()
    task = job("T1", "stream", payload=b"small")
    peer.assign(task, payload=b"smell")
    report = await peer.report()
    assert (report.outcome, report.error.reason) == (ws.OUTCOME_TRANSIENT, "PAYLOAD_DAMAGED")
    task.error.reason = report.error.reason
    peer.assign(task, attempt=2, payload=b"smell")
    assert await digest_of(peer) == hashlib.sha256(b"small").hexdigest()


async def test_reading_from_the_middle(start: Start) -> None:
    server, _ = await start(Readers().registry)
    content = os.urandom(SIZE)
    server.payloads["T1"] = content
    peer = await server.peer()
    peer.assign(job("T1", "rest", payload=content))
    assert await digest_of(peer) == hashlib.sha256(content[1_000_001:]).hexdigest()
    assert [request.offset for request in server.downloads] == [1_000_001]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_readable_spool_file_is_used_directly(start: Start, tmp_path: Path, kind: str) -> None:
    readers = Readers()
    server, _ = await start(readers.registry)
    content = os.urandom(SIZE)
    spooled = tmp_path / "spooled"
    spooled.write_bytes(content)
    peer = await server.peer()
    peer.assign(job("T1", kind, payload=content), payload_path=str(spooled))
    assert await digest_of(peer) == hashlib.sha256(content).hexdigest()
    assert server.downloads == []
    assert spooled.read_bytes() == content


async def test_a_path_that_names_another_file_here_is_not_used(start: Start, tmp_path: Path) -> None:
    server, _ = await start(Readers().registry)
    content = os.urandom(SIZE)
    server.payloads["T1"] = content
    (tmp_path / "other").write_bytes(b"something else")
    peer = await server.peer()
    peer.assign(job("T1", "path", payload=content), payload_path=str(tmp_path / "other"))
    assert await digest_of(peer) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", ["path", "stream", "async-stream"])
async def test_damage_is_transient_once_and_permanent_twice(start: Start, kind: str) -> None:
    readers = Readers()
    server, _ = await start(readers.registry)
    content = os.urandom(SIZE)
    server.payloads["T1"] = content[:-1] + bytes([content[-1] ^ 1])
    peer = await server.peer()
    task = job("T1", kind, payload=content)
    peer.assign(task)
    report = await peer.report()
    assert (report.outcome, report.error.reason) == (ws.OUTCOME_TRANSIENT, "PAYLOAD_DAMAGED")
    task.error.CopyFrom(report.error)
    peer.assign(task, attempt=2)
    report = await peer.report()
    assert (report.outcome, report.error.reason) == (ws.OUTCOME_PERMANENT, "PAYLOAD_DAMAGED")
    assert not any(path.exists() for path in readers.paths)


async def test_a_download_asks_the_server_that_has_the_payload_and_asks_again_after_a_cut(start: Start) -> None:
    server, worker = await start(Readers().registry)
    content = os.urandom(SIZE)
    async with serving() as second, serving() as third:
        server.elsewhere["T1"] = second.address
        second.elsewhere["T1"] = third.address
        third.payloads["T1"] = content
        third.cuts.extend([1_000_000, 300_000])
        peer = await server.peer()
        peer.assign(job("T1", "stream", payload=content))
        assert await digest_of(peer) == hashlib.sha256(content).hexdigest()
        assert [len(each.downloads) for each in (server, second, third)] == [3, 3, 3]
        assert {request.session_id for request in third.downloads} == {worker.session_id}
        assert third.tokens == ["Bearer " + "t" * 20] * 3, "with our own credentials"


async def test_a_payload_that_no_server_has_costs_a_try_and_a_long_pause(start: Start) -> None:
    server, _ = await start(Readers().registry)
    async with serving() as gone:
        pass
    peer = await server.peer()
    for number, away in enumerate(("", gone.address, server.address, "nowhere")):
        task_id = f"T{number}"
        server.elsewhere[task_id] = away
        peer.assign(job(task_id, "stream", payload=b"x" * 10), attempt=2)
        report = await peer.report()
        assert (report.outcome, report.error.reason) == (ws.OUTCOME_TRANSIENT, "PAYLOAD_UNAVAILABLE"), away
        assert (12 <= report.retry_after.seconds <= 15) is (away != "nowhere")


async def test_a_loopback_address_from_another_machine_is_not_used(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that went there would show the token, in the clear, to any process that listens there."""
    # The machine's own name, by which it is reached like any other: over TLS.
    monkeypatch.setattr("socket.getaddrinfo", _all_here(socket.getaddrinfo))
    authority = Authority()
    pair = authority.server("far.example.org")
    replace_file(tmp_path / "ca.crt", authority.certificate)
    far = FakeServer(grpc.ssl_server_credentials([(pair.key, pair.certificate)]))
    await far.start()
    called: list[str] = []
    lurkers = [
        await asyncio.start_unix_server(lambda *_: called.append("unix"), tmp_path / "s"),
        await asyncio.start_server(lambda *_: called.append("tcp"), "127.0.0.1", 0),
    ]
    port = lurkers[1].sockets[0].getsockname()[1]
    try:
        await start(Readers().registry, server=f"far.example.org:{far.port}", tls=TLS(ca=tmp_path / "ca.crt"))
        peer = await far.peer()
        for number, place in enumerate((f"unix:{tmp_path / 's'}", f"127.0.0.1:{port}", f"localhost:{port}"), 1):
            far.elsewhere[f"T{number}"] = place
            peer.assign(job(f"T{number}", "stream", payload=b"x" * 10))
            report = await peer.report()
            assert called == []
            assert (report.outcome, report.error.reason) == (ws.OUTCOME_TRANSIENT, "PAYLOAD_UNAVAILABLE")
            assert "--advertise" in report.error.message
    finally:
        await start.stop()
        await far.stop()
        for lurker in lurkers:
            lurker.close()


def _all_here(look_up: Callable[..., Any]) -> Callable[..., Any]:
    def found(host: str, *rest: Any, **options: Any) -> Any:
        return look_up("127.0.0.1" if host == "far.example.org" else host, *rest, **options)

    return found


async def test_a_damaged_shared_file_is_downloaded_instead(start: Start, tmp_path: Path) -> None:
    server, _ = await start(Readers().registry)
    content = os.urandom(SIZE)
    server.payloads["T1"] = content
    spooled = tmp_path / "spooled"
    spooled.write_bytes(bytes(SIZE))
    peer = await server.peer()
    task = job("T1", "stream", payload=content)
    peer.assign(task, payload_path=str(spooled))
    report = await peer.report()
    assert report.error.reason == "PAYLOAD_DAMAGED"
    task.error.CopyFrom(report.error)
    peer.assign(task, attempt=2, payload_path=str(spooled))
    assert await digest_of(peer) == hashlib.sha256(content).hexdigest()


async def test_a_payload_that_is_not_ours_any_more_stops_the_attempt(start: Start) -> None:
    server, _ = await start(Readers().registry)
    peer = await server.peer()
    peer.assign(job("T1", "stream", payload=b"never sent"))
    assert (await peer.report()).outcome == ws.OUTCOME_STOPPED


@pytest.mark.parametrize("kind", KINDS)
async def test_cancel_ends_a_download_that_stands_still(start: Start, tmp_path: Path, kind: str) -> None:
    readers = Readers()
    server, _ = await start(readers.registry)
    content = os.urandom(SIZE)
    server.payloads["T1"] = content
    server.hold_after = 1_000_000
    peer = await server.peer()
    ref = peer.assign(job("T1", kind, payload=content))
    await until(lambda: len(server.downloads) == 1)
    peer.cancel(ref)
    assert (await peer.report()).outcome == ws.OUTCOME_STOPPED
    # A coroutine ends at once, the thread that read for it a little later.
    await until(lambda: list((tmp_path / "temp").rglob("payload-*")) == [])


async def test_a_server_that_stays_away_costs_a_try(start: Start) -> None:
    server, _ = await start(Readers().registry)
    server.payloads["T1"] = b"x" * 10
    server.cuts.extend([0] * 20)
    peer = await server.peer()
    peer.assign(job("T1", "stream", payload=b"x" * 10))
    report = await peer.report()
    assert (report.outcome, report.error.reason) == (ws.OUTCOME_TRANSIENT, "PAYLOAD_UNAVAILABLE")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_without_a_payload_has_none_to_read(start: Start, kind: str) -> None:
    server, _ = await start(Readers().registry)
    peer = await server.peer()
    peer.assign(job("T1", kind))
    report = await peer.report()
    assert (report.outcome, report.error.reason) == (ws.OUTCOME_PERMANENT, "INVALID_ARGUMENT")


async def test_a_folder_that_cannot_keep_the_download_costs_a_try(start: Start, tmp_path: Path) -> None:
    (tmp_path / "temp").write_text("no folder")
    server, _ = await start(Readers().registry)
    server.payloads["T1"] = b"content"
    peer = await server.peer()
    peer.assign(job("T1", "path", payload=b"content"))
    report = await peer.report()
    assert (report.outcome, report.error.reason) == (ws.OUTCOME_TRANSIENT, "PAYLOAD_UNAVAILABLE")


async def test_an_empty_payload(start: Start) -> None:
    server, _ = await start(Readers().registry)
    peer = await server.peer()
    for number, kind in enumerate(KINDS):
        peer.assign(job(f"T{number}", kind, payload=b""))
        assert await digest_of(peer) == hashlib.sha256(b"").hexdigest()
    assert server.downloads == []


async def test_downloads_of_a_dead_process_are_removed(start: Start, tmp_path: Path) -> None:
    dead = "0123456789abcdef-dead"
    left = tmp_path / "temp" / f"longshore-worker-{dead}"
    left.mkdir(parents=True)
    (left / "payload-x").write_bytes(b"left behind")
    other = tmp_path / "temp/longshore-worker-of-somebody-alive"
    other.mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state/tested").write_text(f"{dead}\n")
    server, _ = await start(Readers().registry)
    await server.peer()
    assert not left.exists()
    assert other.exists()


async def test_the_agent_goes_on_while_a_thread_reads(start: Start) -> None:
    """Payload bytes never pass through the agent's loop: heartbeats go on while a reader does not come for them."""
    registry = Registry()
    release = threading.Event()

    @registry.handler("slow")
    def slow(context: Context) -> None:
        stream = context.open_payload()
        stream.read(1)
        release.wait(WITHIN)
        stream.read()

    server, _ = await start(registry)
    server.lease = 0.8
    content = os.urandom(SIZE)
    server.payloads["T1"] = content
    peer = await server.peer()
    peer.assign(job("T1", "slow", payload=content))
    await until(lambda: len(server.downloads) == 1)
    before = len(peer.heartbeats)
    await peer.until(lambda: len(peer.heartbeats) >= before + 4)
    release.set()
    assert (await peer.report()).outcome == ws.OUTCOME_OK
