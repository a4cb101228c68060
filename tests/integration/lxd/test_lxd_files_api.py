"""Daemons without SFTP: refused, or written in place where the operator allowed it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from longshore.contract.temps import temps_of
from longshore.worker.errors import GrantRefused, PermanentError, StopReason
from longshore.worker.file_push.push import remove_temps, settle_push
from longshore.worker.targets import Attributes, Settlement
from longshore.worker.targets.lxd.target import LxdTarget
from longshore.worker.targets.transport import DaemonEndpoint
from tests.support.network.tap import Tap
from tests.support.workers.lxd import LxdDaemon
from tests.support.workers.pushing import TASK, LxdPlace, Recorder, a_push, deliver

pytestmark = pytest.mark.lxd


@pytest.fixture
def old_daemon(lxd: LxdDaemon) -> Iterator[Tap]:
    """The real daemon, without its SFTP endpoint."""
    with Tap(lxd.folder / "old", lxd.socket) as listening:
        listening.refuse = b"/sftp?"
        yield listening
    (lxd.folder / "old").unlink()


@pytest.fixture
def place(lxd: LxdDaemon, box: str, old_daemon: Tap) -> Iterator[LxdPlace]:
    endpoint = DaemonEndpoint(socket_path=str(old_daemon.path))
    with closing(LxdTarget("t", endpoint, allow_files_api=True)) as target:
        inside = LxdPlace(lxd, target, box)
        inside.run("rm -rf /root && mkdir /root")
        yield inside


def test_without_sftp_and_without_leave_the_task_fails(lxd: LxdDaemon, box: str, old_daemon: Tap) -> None:
    recorder = Recorder(b"new")
    with closing(LxdTarget("t", DaemonEndpoint(socket_path=str(old_daemon.path)))) as target:
        with pytest.raises(PermanentError, match="allow the files API") as caught:
            deliver(LxdPlace(lxd, target, box), "/root/file", recorder)
        assert caught.value.reason == "NO_SFTP"
        assert recorder.grants == []
        remove_temps(target, project="", instance=box, temps=temps_of("/root/file", TASK, 1))


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_files_api_delivers_and_says_so(place: LxdPlace, size: int) -> None:
    recorder = Recorder.of_size(size)
    pushed = deliver(place, "/root/file", recorder, attributes=Attributes(0o640, 7, 8))
    assert pushed.method == "FILES_API"
    assert [(temp, method) for temp, method, _ in recorder.grants] == [("", "FILES_API")]
    assert place.read("/root/file") == recorder.data
    assert place.owner_and_mode("/root/file") == (7, 8, 0o640)


def test_files_api_writes_nothing_before_the_grant(place: LxdPlace) -> None:
    place.plant("/root/file", b"old")

    def refuse(temp: str) -> None:
        raise GrantRefused(StopReason.CANCELLED)

    with pytest.raises(GrantRefused):
        deliver(place, "/root/file", Recorder(b"new", on_commit=refuse))
    assert place.read("/root/file") == b"old"


@pytest.mark.parametrize("size", [100, 1_064_960])
def test_data_lost_with_an_ok_is_noticed(place: LxdPlace, size: int) -> None:
    """On a full disk the daemon answers 200, and the file is empty or short."""
    place.run("mkdir -p /small && mount -t tmpfs -o size=1m tmpfs /small")
    if size == 100:
        place.run("dd if=/dev/zero of=/small/ballast bs=4096 2>/dev/null; true")
    try:
        with pytest.raises(PermanentError, match=r"probably full|no space left") as caught:
            deliver(place, "/small/file", Recorder.of_size(size))
    finally:
        place.run("umount /small")
    assert caught.value.reason in ("VERIFY_FAILED", "NO_SPACE")


def test_the_files_api_refuses_missing_folders_and_existing_files(place: LxdPlace) -> None:
    with pytest.raises(PermanentError) as caught:
        deliver(place, "/root/none/file", Recorder(b"new"))
    assert caught.value.reason == "PARENT_MISSING"
    place.plant("/root/file", b"old")
    with pytest.raises(PermanentError) as caught:
        deliver(place, "/root/file", Recorder(b"new"), replace=False)
    assert caught.value.reason == "ALREADY_EXISTS"
    assert place.read("/root/file") == b"old"


def test_files_api_settles_by_content(place: LxdPlace) -> None:
    push = a_push(place.instance, "/root/file", b"new")
    assert settle_push(push, place.target, temp="", method="FILES_API") is Settlement.NEITHER
    place.plant("/root/file", b"old")
    assert settle_push(push, place.target, temp="", method="FILES_API") is Settlement.NEITHER
    place.plant("/root/file", b"new")
    assert settle_push(push, place.target, temp="", method="FILES_API") is Settlement.LANDED


def test_instance_that_goes_away_is_not_taken_for_missing_sftp(place: LxdPlace) -> None:
    with pytest.raises(PermanentError) as caught, place.target.open("", "nobody"):
        pass
    assert caught.value.reason == "INSTANCE_NOT_FOUND"
