"""Settling, debts and writing in place, on every kind of target."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from longshore.contract.temps import temps_of
from longshore.worker.errors import (
    AttemptError,
    GrantRefused,
    OutcomeUnknown,
    PermanentError,
    StopReason,
)
from longshore.worker.file_push.push import remove_temps, settle_push
from longshore.worker.targets import Attributes, DirectorySpec, Settlement, open_target
from tests.support.workers.pushing import TASK, DirectoryPlace, InstanceView, Recorder, a_push, deliver, failure


def test_settle_removes_a_temp_whose_rename_never_happened(place: InstanceView) -> None:
    push = a_push(place.instance, "/root/file", b"content")
    temp = temps_of("/root/file", TASK, 1)[0]
    place.plant("/root/file", b"old")
    place.plant(temp, b"content")
    assert settle_push(push, place.target, temp=temp, method="SFTP") is Settlement.REMOVED
    assert place.temps() == ""
    assert place.read("/root/file") == b"old"
    again = settle_push(push, place.target, temp=temp, method="SFTP")
    assert again is Settlement.NEITHER, "no temp and an old file: nothing proves anything"


def test_settling_recognises_delivered_content(place: InstanceView) -> None:
    push = a_push(place.instance, "/root/file", b"content", attributes=Attributes(0o640, 7, 8))
    temp = temps_of("/root/file", TASK, 1)[0]
    place.plant("/root/file", b"content", 0o640, 7, 8)
    assert settle_push(push, place.target, temp=temp, method="SFTP") is Settlement.LANDED
    for other in (Attributes(0o600, 7, 8), Attributes(0o640, 1, 8), Attributes(0o640, 7, 1)):
        assert settle_push(replace(push, attributes=other), place.target, temp=temp, method="SFTP") is (
            Settlement.NEITHER
        )
    unlike = replace(push, crc32c=push.crc32c ^ 1)
    assert settle_push(unlike, place.target, temp=temp, method="SFTP") is Settlement.NEITHER


def test_settle_of_a_link_looks_at_the_destination_though_the_temp_was_there(place: InstanceView) -> None:
    push = a_push(place.instance, "/root/file", b"content", replace=False)
    temp = temps_of("/root/file", TASK, 1)[0]
    place.plant(temp, b"content")
    place.plant("/root/file", b"content")
    assert settle_push(push, place.target, temp=temp, method="SFTP") is Settlement.LANDED
    assert place.temps() == ""
    place.plant(temp, b"content")
    place.plant("/root/file", b"rival")
    assert settle_push(push, place.target, temp=temp, method="SFTP") is Settlement.REMOVED


def test_settle_where_the_instance_is_gone(place: InstanceView) -> None:
    push = a_push("nobody", "/root/file", b"content")
    temp = temps_of("/root/file", TASK, 1)[0]
    assert settle_push(push, place.target, temp=temp, method="SFTP") is Settlement.NEITHER


def test_debts_are_paid_and_nothing_else_is_removed(place: InstanceView) -> None:
    temps = temps_of("/root/file", TASK, 3)
    place.plant(temps[1], b"left")
    remove_temps(place.target, project="", instance=place.instance, temps=temps)
    assert place.temps() == ""
    remove_temps(place.target, project="", instance=place.instance, temps=temps)
    remove_temps(place.target, project="", instance="nobody", temps=temps)
    place.plant("/root/precious", b"mine")
    with pytest.raises(PermanentError, match="not the name of a temp"):
        remove_temps(place.target, project="", instance=place.instance, temps=("/root/precious",))
    assert place.read("/root/precious") == b"mine"


def in_place(place: InstanceView, recorder: Recorder, path: str = "/root/file", **more: object) -> str:
    return deliver(place, path, recorder, in_place=True, **more).method


def test_in_place_writes_into_the_file_that_is_there(place: InstanceView) -> None:
    place.plant("/root/file", b"old and longer than the new one", 0o640, 1000, 1001)
    before = place.inode("/root/file")
    recorder = Recorder(b"new")
    assert in_place(place, recorder) == "IN_PLACE"
    assert place.read("/root/file") == b"new"
    assert place.inode("/root/file") == before
    assert place.owner_and_mode("/root/file") == (1000, 1001, 0o640)
    assert [method for _, method, _ in recorder.grants] == ["IN_PLACE"]
    assert place.temps() == ""


def test_in_place_sets_the_wanted_owner_and_mode(place: InstanceView) -> None:
    place.plant("/root/file", b"old", 0o640, 1000, 1001)
    recorder = Recorder.of_size(700_000)
    in_place(place, recorder, attributes=Attributes(mode=0o600, uid=7))
    assert place.read("/root/file") == recorder.data
    assert place.owner_and_mode("/root/file") == (7, 1001, 0o600)


def test_in_place_without_an_existing_file_creates_it_in_one_step(place: InstanceView) -> None:
    assert in_place(place, Recorder(b"new")) in ("SFTP", "DIRECTORY")
    assert place.read("/root/file") == b"new"


def test_in_place_leaves_the_old_file_alone_until_the_grant(place: InstanceView) -> None:
    place.plant("/root/file", b"old")

    def refuse(_: str) -> None:
        assert place.read("/root/file") == b"old"
        raise GrantRefused(StopReason.CANCELLED)

    with pytest.raises(GrantRefused):
        in_place(place, Recorder(b"new", on_commit=refuse))
    assert place.read("/root/file") == b"old"
    assert place.temps() == ""


def test_a_worker_that_is_slow_in_place_stops_once_another_one_has_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would go on, over what later tasks have put there by then."""
    box = DirectoryPlace(tmp_path, open_target(DirectorySpec("t", str(tmp_path))), "box")
    box.plant("/root/file", b"old")
    recorder = Recorder.of_size(2_000_000)
    push = replace(a_push(box.instance, "/root/file", recorder.data), in_place=True)
    write = os.write

    def meanwhile(descriptor: int, data: bytes) -> int:
        done = write(descriptor, data)
        if recorder.grants and len(box.read("/root/file")) == done:
            settled = settle_push(push, box.target, temp=recorder.grants[0][0], method="IN_PLACE")
            assert settled is Settlement.NEITHER
            box.plant("/root/file", b"later")
        return done

    monkeypatch.setattr(os, "write", meanwhile)
    with pytest.raises(OutcomeUnknown, match="another worker"):
        in_place(box, recorder)
    assert box.read("/root/file") == b"later"


def test_settling_in_place_looks_at_the_content_alone(place: InstanceView) -> None:
    push = replace(a_push(place.instance, "/root/file", b"new"), in_place=True)
    temp = temps_of("/root/file", TASK, 1)[0]
    place.plant("/root/file", b"ne", 0o600)
    place.plant(temp, b"new")
    assert settle_push(push, place.target, temp=temp, method="IN_PLACE") is Settlement.NEITHER
    assert place.temps() == "", "a worker that is only slow finds nothing to write any more"
    place.plant("/root/file", b"new", 0o600, 5, 5)
    other = replace(push, attributes=Attributes(mode=0o644, uid=0, gid=0))
    assert settle_push(other, place.target, temp=temp, method="IN_PLACE") is Settlement.LANDED
    place.plant(temp, b"new")
    assert settle_push(push, place.target, temp=temp, method="IN_PLACE") is Settlement.LANDED
    assert place.temps() == ""


def test_in_place_does_not_write_through_a_link(place: InstanceView) -> None:
    place.plant("/root/other", b"old")
    place.link("/root/other", "/root/file")
    error = failure(place, "/root/file", in_place=True)
    assert error.reason == "NOT_A_FILE"
    assert place.read("/root/other") == b"old"


def test_a_mount_point_is_a_permanent_error_with_a_remedy(place: InstanceView) -> None:
    place.plant("/etc/origin", b"mounted")
    place.plant("/root/file", b"below")
    with place.mounted("/etc/origin", "/root/file"):
        with pytest.raises(PermanentError, match="--in-place") as caught:
            deliver(place, "/root/file", Recorder(b"new"))
        assert caught.value.reason == "MOUNT_POINT"
        assert not caught.value.left_temps
        assert place.temps() == ""
        assert in_place(place, Recorder(b"new")) == "IN_PLACE"
        assert place.read("/etc/origin") == b"new"
    assert place.read("/root/file") == b"below"


@pytest.mark.parametrize("create_parents", [False, True])
def test_a_file_system_without_new_files_is_reported_as_such(place: InstanceView, create_parents: bool) -> None:
    with place.proc("/proc"):
        for path in ("/proc/x", "/proc/none/x") if create_parents else ("/proc/x",):
            error = failure(place, path, create_parents=create_parents)
            assert error.reason == "NO_NEW_FILES", error
            assert "/proc" in error.message


def test_a_read_only_file_system_is_permanent(place: InstanceView) -> None:
    with place.read_only("/tmp"):
        error = failure(place, "/tmp/file")
    assert error.reason == "READ_ONLY"
    assert ".longshore" not in error.message


def exchanged(place: InstanceView, path: str) -> None:
    """The folder at `path` is moved away, and another one takes its place."""
    place.move(path, f"{path}-moved")
    place.folder(path)


@pytest.mark.parametrize("when", ["while writing", "before the grant"])
def test_a_temp_in_a_folder_that_was_exchanged_is_removed_or_told(place: InstanceView, when: str) -> None:
    place.folder("/root/site")
    recorder = Recorder.of_size(600_000)
    moved: list[bool] = []

    def once(_: object) -> None:
        if not moved:
            moved.append(True)
            exchanged(place, "/root/site")

    if when == "while writing":
        recorder.on_progress = once
    else:
        recorder.on_commit = once
    try:
        told, met = deliver(place, "/root/site/file", recorder).left_temps, ""
    except AttemptError as error:
        told, met = error.left_temps, error.reason
    assert met in ("", "TEMP_MISSING")
    assert told is (place.temps() != ""), "a temp that nobody was told of, or nothing to tell of"
    if isinstance(place, DirectoryPlace):
        assert not told, "the folder in which it was made is still known"
