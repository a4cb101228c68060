"""The answer to a commit gets lost: what the worker finds out by itself, and what it leaves to others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from longshore.contract.temps import temps_of
from longshore.worker.errors import OutcomeUnknown, TransientError
from longshore.worker.file_push.push import settle_push
from longshore.worker.targets import Settlement
from longshore.worker.targets.lxd.target import LxdTarget
from longshore.worker.targets.transport import DaemonEndpoint, Timeouts
from tests.support.network.tap import Tap
from tests.support.workers.lxd import LxdDaemon
from tests.support.workers.pushing import TASK, LxdPlace, Recorder, a_push, deliver

pytestmark = pytest.mark.lxd

RENAME = b"posix-rename@openssh.com"
LINK = b"hardlink@openssh.com"
TIMEOUTS = Timeouts(connect_s=5.0, answer_s=10.0, cleanup_s=5.0)


@pytest.fixture
def tap(lxd: LxdDaemon, tmp_path: Path) -> Iterator[Tap]:
    with Tap(lxd.folder / "tap", lxd.socket) as listening:
        yield listening
    (lxd.folder / "tap").unlink()


@pytest.fixture
def place(lxd: LxdDaemon, box: str, tap: Tap) -> Iterator[LxdPlace]:
    with closing(LxdTarget("t", DaemonEndpoint(socket_path=str(tap.path)), timeouts=TIMEOUTS)) as target:
        inside = LxdPlace(lxd, target, box)
        inside.run("rm -rf /root && mkdir /root")
        inside.plant("/root/file", b"old")
        yield inside


@pytest.mark.parametrize("command", [RENAME, LINK])
def test_commit_that_happened_unanswered_is_a_success(place: LxdPlace, tap: Tap, command: bytes) -> None:
    if command == LINK:
        place.run("rm /root/file")
    tap.cut_after = command
    recorder = Recorder.of_size(300_000)
    pushed = deliver(place, "/root/file", recorder, replace=command == RENAME)
    assert tap.cuts == 1
    assert pushed.method == "SFTP"
    assert place.read("/root/file") == recorder.data
    assert place.temps() == ""


@pytest.mark.parametrize("command", [RENAME, LINK])
def test_commit_that_never_arrived_is_proved_not_to_happen(place: LxdPlace, tap: Tap, command: bytes) -> None:
    if command == LINK:
        place.run("rm /root/file")
    tap.cut_before = command
    with pytest.raises(TransientError) as caught:
        deliver(place, "/root/file", Recorder(b"new"), replace=command == RENAME)
    assert tap.cuts == 1
    assert caught.value.reason == "TARGET_UNREACHABLE"
    assert not caught.value.left_temps
    assert place.run("ls /root") == ("file\n" if command == RENAME else "")
    assert place.temps() == ""


def test_rename_that_happened_and_was_overwritten_is_left_open(place: LxdPlace, tap: Tap) -> None:
    tap.cut_after = RENAME

    def overwrite() -> None:
        place.run("until [ ! -e /root/.longshore-* ]; do :; done; printf rival > /root/file")

    tap.on_cut = overwrite
    with pytest.raises(OutcomeUnknown):
        deliver(place, "/root/file", Recorder(b"new"))
    assert place.read("/root/file") == b"rival"


def test_an_absent_daemon_leaves_the_outcome_open(
    lxd: LxdDaemon, place: LxdPlace, tap: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longshore.worker.file_push.push._SETTLE_S", 1.0)
    tap.cut_after = RENAME
    tap.on_cut = tap.refuse_everything
    recorder = Recorder(b"new")
    with pytest.raises(OutcomeUnknown):
        deliver(place, "/root/file", recorder)
    # Another worker, with another way to the daemon, is told to settle.
    push = a_push(place.instance, "/root/file", b"new", attributes=recorder.grants[0][2].attributes)
    with closing(LxdTarget("t", DaemonEndpoint(socket_path=str(lxd.socket)))) as other:
        outcome = settle_push(push, other, temp=temps_of("/root/file", TASK, 1)[0], method="SFTP")
    assert outcome is Settlement.LANDED
    assert place.read("/root/file") == b"new"


EMPTY = b"/root/file\x00\x00\x00\x12"
READ = b"/root/file\x00\x00\x00\x01"
"""How an opening of the destination ends: its path, and what for."""


@pytest.mark.parametrize("happened", [True, False])
@pytest.mark.parametrize("request_", [EMPTY, READ], ids=["empty", "read"])
def test_a_connection_lost_while_writing_in_place_leaves_the_outcome_open(
    place: LxdPlace, tap: Tap, request_: bytes, happened: bool
) -> None:
    """A failure would be taken for an untouched file: after a cancel the task would be CANCELLED."""
    setattr(tap, "cut_after" if happened else "cut_before", request_)
    recorder = Recorder(b"new")
    with pytest.raises(OutcomeUnknown):
        deliver(place, "/root/file", recorder, in_place=True)
    assert tap.cuts == 1
    push = a_push(place.instance, "/root/file", b"new", in_place=True)
    outcome = settle_push(push, place.target, temp=recorder.grants[0][0], method="IN_PLACE")
    assert outcome is (Settlement.LANDED if request_ == READ else Settlement.NEITHER)
    assert place.temps() == ""


def test_connection_cut_before_the_grant_is_tried_again(place: LxdPlace, tap: Tap) -> None:
    recorder = Recorder.of_size(2_000_000)
    cut: list[int] = []

    def once(done: int) -> None:
        if done > 1_000_000 and not cut:
            cut.append(done)
            tap.cut_all()

    recorder.on_progress = once
    deliver(place, "/root/file", recorder)
    assert recorder.opened == 2
    assert place.read("/root/file") == recorder.data
    assert place.temps() == ""


def test_connection_lost_while_waiting_for_the_grant(place: LxdPlace, tap: Tap) -> None:
    """The temp is whole and the grant is there, but nothing was renamed: then nothing is said to be."""
    recorder = Recorder(b"new", on_commit=lambda temp: tap.cut_all())
    with pytest.raises(TransientError) as caught:
        deliver(place, "/root/file", recorder)
    assert caught.value.reason == "TARGET_UNREACHABLE"
    assert place.read("/root/file") == b"old"
    assert place.temps() == ""
