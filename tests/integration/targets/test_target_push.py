"""A push keeps its promises on every kind of target: the same tests run against a container and a directory."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from longshore.contract.temps import temps_of
from longshore.worker.errors import (
    AttemptError,
    AttemptStopped,
    GrantRefused,
    OutcomeUnknown,
    PermanentError,
    StopReason,
    TransientError,
)
from longshore.worker.file_push.push import push_file, remove_temps, settle_push
from longshore.worker.targets import Attributes, DirectorySpec, Settlement, open_target
from longshore.worker.targets.lxd.target import LxdTarget
from longshore.worker.targets.transport import DaemonEndpoint
from tests.support.workers.pushing import TASK, DirectoryPlace, InstanceView, LxdPlace, Recorder, a_push, deliver


@pytest.fixture(params=[pytest.param("lxd", marks=pytest.mark.lxd), "directory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[InstanceView]:
    if request.param == "directory":
        opened = open_target(DirectorySpec("t", str(tmp_path)))
        yield DirectoryPlace(tmp_path, opened, "box")
    else:
        daemon = request.getfixturevalue("lxd")
        instance = request.getfixturevalue("box")
        opened = LxdTarget("t", DaemonEndpoint(socket_path=str(daemon.socket)))
        inside = LxdPlace(daemon, opened, instance)
        inside.run("rm -rf /root /etc/longshore && mkdir -p /root")
        yield inside
    opened.close()


@pytest.mark.parametrize("size", [0, 1, 131_071, 131_072, 131_073, 5_000_000])
def test_content_arrives_whole_and_is_read_back(place: InstanceView, size: int) -> None:
    recorder = Recorder.of_size(size)
    pushed = deliver(place, "/root/file", recorder, read_back=True)
    assert place.read("/root/file") == recorder.data
    assert recorder.done == size
    assert [(temp, method) for temp, method, _ in recorder.grants] == [
        (temps_of("/root/file", TASK, 1)[0], pushed.method)
    ]
    assert place.temps() == ""


def test_a_new_file_is_0644_and_owned_by_root(place: InstanceView) -> None:
    deliver(place, "/root/file", Recorder(b"new"))
    assert place.owner_and_mode("/root/file") == (0, 0, 0o644)


def test_replaced_file_keeps_mode_and_owner(place: InstanceView) -> None:
    place.plant("/root/file", b"old", 0o640, 1000, 1001)
    deliver(place, "/root/file", Recorder(b"new"))
    assert place.read("/root/file") == b"new"
    assert place.owner_and_mode("/root/file") == (1000, 1001, 0o640)


def test_given_mode_and_owner_win(place: InstanceView) -> None:
    place.plant("/root/file", b"old", 0o640, 1000, 1001)
    deliver(place, "/root/file", Recorder(b"new"), attributes=Attributes(mode=0o751, uid=5))
    assert place.owner_and_mode("/root/file") == (5, 1001, 0o751)


@pytest.mark.parametrize("mode", [0, 0o777, 0o400])
def test_any_permission_bits(place: InstanceView, mode: int) -> None:
    deliver(place, "/root/file", Recorder(b"new"), attributes=Attributes(mode=mode))
    assert place.owner_and_mode("/root/file") == (0, 0, mode)


@pytest.mark.parametrize("mode", [0o4755, 0o1000, 0o10000])
def test_special_bits_are_refused_and_not_dropped(place: InstanceView, mode: int) -> None:
    recorder = Recorder(b"new")
    with pytest.raises(PermanentError) as caught:
        deliver(place, "/root/file", recorder, attributes=Attributes(mode=mode))
    assert caught.value.reason == "UNSUPPORTED_MODE"
    assert recorder.opened == 0


def test_parents_are_created_when_asked(place: InstanceView) -> None:
    deliver(place, "/etc/longshore/a/b/file", Recorder(b"new"), create_parents=True)
    assert place.read("/etc/longshore/a/b/file") == b"new"
    assert place.owner_and_mode("/etc/longshore/a") == (0, 0, 0o755)


def test_parents_have_the_mode_that_is_asked_for_and_the_owner_of_the_file(place: InstanceView) -> None:
    asked = Attributes(mode=0o600, uid=1000, gid=1001)
    deliver(
        place, "/etc/longshore/a/b/file", Recorder(b"new"), create_parents=True, parents_mode=0o750,
        attributes=asked,
    )  # fmt: skip
    for folder in ("/etc/longshore/a", "/etc/longshore/a/b"):
        assert place.owner_and_mode(folder) == (1000, 1001, 0o750)
    # A folder that is there already stays as it is.
    deliver(place, "/etc/longshore/a/c/file", Recorder(b"new"), create_parents=True)
    assert place.owner_and_mode("/etc/longshore/a") == (1000, 1001, 0o750)
    assert place.owner_and_mode("/etc/longshore/a/c") == (0, 0, 0o755)


def test_a_new_file_gets_the_mode_for_new_ones_and_an_old_one_keeps_its_own(place: InstanceView) -> None:
    deliver(place, "/root/new", Recorder(b"new"), mode_if_new=0o755)
    assert place.owner_and_mode("/root/new") == (0, 0, 0o755)
    place.plant("/root/old", b"old", 0o640, 1000, 1001)
    deliver(place, "/root/old", Recorder(b"new"), mode_if_new=0o755)
    assert place.owner_and_mode("/root/old") == (1000, 1001, 0o640)
    deliver(place, "/root/said", Recorder(b"new"), mode_if_new=0o755, attributes=Attributes(mode=0o600))
    assert place.owner_and_mode("/root/said") == (0, 0, 0o600)
    place.link("/root/nothing", "/root/dangling")
    deliver(place, "/root/dangling", Recorder(b"new"), mode_if_new=0o711)
    assert place.owner_and_mode("/root/dangling") == (0, 0, 0o711), "what the link led to is not there"


def test_a_parent_that_cannot_have_the_owner_is_not_left_with_another_one(place: InstanceView) -> None:
    """The next push would find it there, and leave it as it is."""
    path, asked = "/etc/longshore/a/file", Attributes(uid=place.no_owner, gid=0)
    error = failure(place, path, create_parents=True, parents_mode=0o750, attributes=asked)
    assert error.reason == "INVALID_ARGUMENT"
    right = Attributes(uid=1000, gid=1001)
    deliver(place, path, Recorder(b"new"), create_parents=True, parents_mode=0o750, attributes=right)
    for folder in ("/etc/longshore", "/etc/longshore/a"):
        assert place.owner_and_mode(folder) == (1000, 1001, 0o750)


@pytest.mark.parametrize("below", ["", "/a", "/a/b"])
def test_a_dangling_link_above_the_destination_is_reported_or_followed(place: InstanceView, below: str) -> None:
    """A directory target makes the folders that the link leads to; SFTP makes none there."""
    place.link("/root/none", "/root/link")
    path = f"/root/link{below}/file"
    missing = failure(place, path)
    assert missing.reason == "PARENT_MISSING"
    assert "/root/link is a link" in missing.message
    if isinstance(place, LxdPlace):
        broken = failure(place, path, create_parents=True)
        assert broken.reason == "LINK_BROKEN"
        assert "/root/link is a link" in broken.message
        assert place.run("ls -A /root") == "link\n"
        place.folder("/root/none")
    deliver(place, path, Recorder(b"new"), create_parents=True)
    assert place.read(f"/root/none{below}/file") == b"new"


def failure(place: InstanceView, path: str, **more: object) -> PermanentError:
    recorder = Recorder(b"content")
    with pytest.raises(PermanentError) as caught:
        deliver(place, path, recorder, **more)
    assert recorder.grants == [], "nobody asks for a commit that cannot be"
    assert place.temps() == ""
    assert not caught.value.left_temps
    return caught.value


def test_missing_parent_is_permanent(place: InstanceView) -> None:
    error = failure(place, "/root/none/deeper/file")
    assert error.reason == "PARENT_MISSING"
    assert error.message == (
        f"/root/none does not exist in {place.instance}: create it, or push with --create-dirs (-p)"
    )


def test_a_missing_instance_is_reported_with_the_nearest_name(place: InstanceView) -> None:
    near = place.instance[:-1] + "yx"
    with pytest.raises(PermanentError) as caught:
        push_file(a_push(near, "/root/file", b"x"), Recorder(b"x"), place.target)
    assert caught.value.reason == "INSTANCE_NOT_FOUND"
    assert f"has no instance {near} (did you mean " in caught.value.message
    assert place.instance in caught.value.message
    assert "project" not in caught.value.message


def test_folder_at_the_destination_is_permanent(place: InstanceView) -> None:
    error = failure(place, "/etc")
    assert error.reason == "IS_A_DIRECTORY"
    assert f"push to {place.instance}/etc/ (with a slash)" in error.message


@pytest.mark.parametrize("create_parents", [False, True])
def test_file_as_a_parent_is_permanent(place: InstanceView, create_parents: bool) -> None:
    place.plant("/root/file", b"old")
    error = failure(place, "/root/file/below", create_parents=create_parents)
    assert error.reason == "NOT_A_DIRECTORY"
    assert "/root/file is " in error.message


def test_name_too_long_is_permanent(place: InstanceView) -> None:
    assert failure(place, "/root/" + "n" * 256).reason == "NAME_TOO_LONG"


def test_longest_name_still_has_room_for_its_temp(place: InstanceView) -> None:
    deliver(place, "/root/" + "n" * 255, Recorder(b"new"))
    assert place.read("/root/" + "n" * 255) == b"new"


def test_dots_in_the_path_are_refused(place: InstanceView) -> None:
    assert failure(place, "/root/../../etc/passwd").reason == "PATH_ESCAPES"


def test_instance_that_is_not_there(place: InstanceView) -> None:
    recorder = Recorder(b"content")
    with pytest.raises(PermanentError) as caught:
        deliver(place, "/root/file", recorder, instance="nobody")
    assert caught.value.reason == "INSTANCE_NOT_FOUND"


def test_existing_file_is_left_alone_when_asked(place: InstanceView) -> None:
    place.plant("/root/file", b"old")
    assert failure(place, "/root/file", replace=False).reason == "ALREADY_EXISTS"
    assert place.read("/root/file") == b"old"


def test_file_that_appears_before_the_commit_is_left_alone(place: InstanceView) -> None:
    recorder = Recorder(b"new", on_commit=lambda temp: place.plant("/root/file", b"rival"))
    with pytest.raises(PermanentError) as caught:
        deliver(place, "/root/file", recorder, replace=False)
    assert caught.value.reason == "ALREADY_EXISTS"
    assert place.read("/root/file") == b"rival"
    assert place.temps() == ""


def test_fail_if_exists_delivers_a_new_file(place: InstanceView) -> None:
    deliver(place, "/root/file", Recorder(b"new"), replace=False)
    assert place.read("/root/file") == b"new"
    assert place.temps() == ""


def test_cancel_in_the_middle_keeps_the_old_file_and_leaves_nothing(place: InstanceView) -> None:
    place.plant("/root/file", b"old")
    recorder = Recorder.of_size(8_000_000)
    recorder.on_progress = lambda done: recorder.stop() if done > 3_000_000 else None
    with pytest.raises(AttemptStopped) as caught:
        deliver(place, "/root/file", recorder)
    assert recorder.done < 8_000_000
    assert not caught.value.left_temps
    assert place.read("/root/file") == b"old"
    assert place.temps() == ""


def test_no_grant_no_rename(place: InstanceView) -> None:
    place.plant("/root/file", b"old")

    def refuse(temp: str) -> None:
        assert temp.removeprefix("/root/") in place.temps(), "the temp is there when the grant is asked for"
        raise GrantRefused(StopReason.CANCELLED)

    with pytest.raises(GrantRefused):
        deliver(place, "/root/file", Recorder(b"new", on_commit=refuse))
    assert place.read("/root/file") == b"old"
    assert place.temps() == ""


def test_damaged_payload_is_never_put_in_place(place: InstanceView) -> None:
    place.plant("/root/file", b"old")
    recorder = Recorder(b"content", payload=lambda data: io.BytesIO(b"CONTENT"))
    with pytest.raises(TransientError) as caught:
        deliver(place, "/root/file", recorder)
    assert caught.value.reason == "PAYLOAD_UNAVAILABLE"
    assert recorder.opened == 4, "read anew in each try"
    assert recorder.grants == []
    assert place.read("/root/file") == b"old"
    assert place.temps() == ""


class Cut(io.BytesIO):
    """A payload whose stream breaks."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= 262_144:
            raise OSError("the stream broke")
        return super().read(size)


def test_broken_payload_stream_is_tried_again_under_another_temp(place: InstanceView) -> None:
    recorder = Recorder.of_size(1_000_000)
    recorder.payload = lambda data: Cut(data) if recorder.opened < 3 else io.BytesIO(data)
    deliver(place, "/root/file", recorder)
    assert place.read("/root/file") == recorder.data
    assert recorder.grants[0][0] == temps_of("/root/file", TASK, 1)[2]
    assert place.temps() == ""


def test_payload_in_small_pieces(place: InstanceView) -> None:
    class Dribble(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 1, 1000))

    recorder = Recorder.of_size(300_000)
    recorder.payload = Dribble
    deliver(place, "/root/file", recorder)
    assert place.read("/root/file") == recorder.data


def test_a_taken_temp_name_is_not_touched(place: InstanceView) -> None:
    taken = temps_of("/root/file", TASK, 1)[0]
    place.plant(taken, b"somebody")
    deliver(place, "/root/file", Recorder(b"new"))
    assert place.read("/root/file") == b"new"
    assert place.read(taken) == b"somebody"


def test_symlink_at_the_destination_is_replaced_and_not_followed(place: InstanceView) -> None:
    place.plant("/root/real", b"old", 0o600)
    if isinstance(place, DirectoryPlace):
        (place.base / "box/root/link").symlink_to("/root/real")
    else:
        place.run("ln -s /root/real /root/link")
    deliver(place, "/root/link", Recorder(b"new"))
    assert place.read("/root/link") == b"new"
    assert place.read("/root/real") == b"old"
    assert place.owner_and_mode("/root/link") == (0, 0, 0o600), "mode of what the link led to"


def test_temp_that_was_removed_before_the_rename_means_no_delivery(place: InstanceView) -> None:
    """Another worker settled in the meantime: then this rename must fail, and say so."""
    place.plant("/root/file", b"old")

    def settled_by_another(temp: str) -> None:
        remove_temps(place.target, project="", instance=place.instance, temps=(temp,))

    with pytest.raises(TransientError) as caught:
        deliver(place, "/root/file", Recorder(b"new", on_commit=settled_by_another))
    assert caught.value.reason == "TEMP_MISSING"
    assert place.read("/root/file") == b"old"


# -- settling and debts ----------------------------------------------------------------------------------------------


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
