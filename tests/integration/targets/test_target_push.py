"""A push keeps its promises on every kind of target: the same tests run against a container and a directory."""

from __future__ import annotations

import io

import pytest

from longshore.contract.temps import temps_of
from longshore.worker.errors import (
    AttemptStopped,
    GrantRefused,
    PermanentError,
    StopReason,
    TransientError,
)
from longshore.worker.file_push.push import push_file, remove_temps
from longshore.worker.targets import Attributes
from tests.support.workers.pushing import (
    TASK,
    DirectoryPlace,
    InstanceView,
    LxdPlace,
    Recorder,
    a_push,
    deliver,
    failure,
)


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
