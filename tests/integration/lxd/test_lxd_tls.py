"""The same daemon over TLS: our certificate, theirs pinned, and nothing from the environment."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from longshore.worker.errors import PermanentError
from longshore.worker.targets import InstanceChange, InstanceState, open_target, parse_target
from longshore.worker.targets.lxd.target import LxdTarget
from tests.support.servers.certificates import Authority
from tests.support.workers.lxd import LxdDaemon
from tests.support.workers.pushing import LxdPlace, Recorder, Seen, deliver

pytestmark = pytest.mark.lxd


@dataclass
class Tls:
    port: int
    cert: Path
    key: Path
    server_cert: Path

    def target(self, **other: Path) -> closing[LxdTarget]:
        files = {"cert": self.cert, "key": self.key, "server_cert": self.server_cert, **other}
        options = "&".join(f"{name}={path}" for name, path in files.items() if path != Path())
        target = open_target(parse_target(f"t=https://127.0.0.1:{self.port}?{options}"))
        assert isinstance(target, LxdTarget)
        return closing(target)


@pytest.fixture(scope="module")
def tls(lxd: LxdDaemon, tmp_path_factory: pytest.TempPathFactory) -> Tls:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    lxd.lxc("config", "set", "core.https_address", f"127.0.0.1:{port}")
    cert, key = Authority().client().write(tmp_path_factory.mktemp("tls"), "worker")
    lxd.lxc("config", "trust", "add", str(cert))
    return Tls(port, cert, key, lxd.directory / "server.crt")


def test_push_over_tls(lxd: LxdDaemon, box: str, tls: Tls) -> None:
    recorder = Recorder.of_size(5_000_000)
    with tls.target() as target:
        assert target.probe("", box) is InstanceState.RUNNING
        place = LxdPlace(lxd, target, box)
        deliver(place, "/root/tls", recorder, read_back=True)
        assert place.read("/root/tls") == recorder.data


def test_identity_is_the_same_by_any_way(lxd: LxdDaemon, tls: Tls) -> None:
    by_socket = open_target(parse_target(f"t=lxd:{lxd.socket}"))
    with tls.target() as target:
        assert target.identity() == by_socket.identity()
    by_socket.close()


def test_no_wait_between_small_packets(lxd: LxdDaemon, box: str, tls: Tls) -> None:
    """Without TCP_NODELAY each request takes 40 ms, and a push of nine or so a third of a second."""
    with tls.target() as target:
        place = LxdPlace(lxd, target, box)
        deliver(place, "/root/tls", Recorder(b"warm"))
        began = time.monotonic()
        for _ in range(10):
            deliver(place, "/root/tls", Recorder(b"content"))
        assert time.monotonic() - began < 2.0


def test_environment_does_not_undo_the_pin(box: str, tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other, _ = Authority().client().write(tmp_path, "other")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with tls.target() as target:
        assert target.probe("", box) is InstanceState.RUNNING


def test_another_certificate_than_the_pinned_one_is_refused(box: str, tls: Tls, tmp_path: Path) -> None:
    other, _ = Authority().client().write(tmp_path, "other")
    with tls.target(server_cert=other) as target:
        for ask in (target.identity, lambda: target.probe("", box), lambda: target.open("", box).__enter__()):
            with pytest.raises(PermanentError, match="certificate") as caught:
                ask()
            assert caught.value.reason == "TARGET_FORBIDDEN"


def test_self_signed_certificate_without_a_pin_is_refused(box: str, tls: Tls) -> None:
    with tls.target(server_cert=Path()) as target:
        for ask in (lambda: target.probe("", box), lambda: target.open("", box).__enter__()):
            with pytest.raises(PermanentError, match="certificate") as caught:
                ask()
            assert caught.value.reason == "TARGET_FORBIDDEN"


def test_an_untrusted_worker_is_refused_with_the_remedy(box: str, tls: Tls, tmp_path: Path) -> None:
    cert, key = Authority().client().write(tmp_path, "stranger")
    with tls.target(cert=cert, key=key) as target:
        for ask in (target.identity, lambda: target.probe("", box), lambda: target.open("", box).__enter__()):
            with pytest.raises(PermanentError, match="trust store") as caught:
                ask()
            assert caught.value.reason == "TARGET_FORBIDDEN"


def test_events_over_tls(lxd: LxdDaemon, tls: Tls) -> None:
    seen = Seen()
    with tls.target() as target, closing(target.watch(seen)):
        lxd.create("observed")
        seen.wait_for(InstanceChange("default", "observed", InstanceState.STOPPED))
    lxd.lxc("delete", "observed")
