"""A directory of instance roots: no path, `..` or symlink leads out of one, and what is done is on disk."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from longshore.contract.enums import WhenAbsent, WhenStopped
from longshore.contract.temps import temps_of
from longshore.worker.errors import AttemptError, NotReadyError, PermanentError, TransientError
from longshore.worker.targets import Attributes, InstanceChange, InstanceState
from longshore.worker.targets.directory.target import DirectoryTarget
from tests.support.parts import require_root
from tests.support.workers.pushing import TASK, DirectoryPlace, Recorder, Seen, deliver


@pytest.fixture
def place(tmp_path: Path) -> DirectoryPlace:
    base = tmp_path / "roots"
    base.mkdir()
    return DirectoryPlace(base, DirectoryTarget("t", str(base), poll_s=0.05), "box")


@pytest.fixture
def outside(place: DirectoryPlace, tmp_path: Path) -> Iterator[Path]:
    """A folder beside the roots that must not change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_bytes(b"precious")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_bytes() == b"precious"


def root_of(place: DirectoryPlace) -> Path:
    return place.base / place.instance


@pytest.mark.parametrize("link", ["absolute", "relative", "root", "far up"])
def test_symlink_out_of_the_root_stays_inside(place: DirectoryPlace, outside: Path, link: str) -> None:
    root = root_of(place)
    leads_to = {
        "absolute": str(outside),
        "relative": "../../outside",
        "root": f"/../../../../../../../..{outside}",
        "far up": "../" * 60 + str(outside).lstrip("/"),
    }[link]
    (root / "way").symlink_to(leads_to)
    with pytest.raises(PermanentError) as caught:
        deliver(place, "/way/file", Recorder(b"stolen"))
    assert caught.value.reason == "PARENT_MISSING", "there is no such folder inside the root"
    deliver(place, "/way/file", Recorder(b"inside"), create_parents=True)
    inside = "outside" if link == "relative" else str(outside).lstrip("/")
    assert (root / inside / "file").read_bytes() == b"inside"


def test_symlinks_inside_are_followed_as_the_instance_would(place: DirectoryPlace) -> None:
    root = root_of(place)
    (root / "data/deep").mkdir(parents=True)
    (root / "var").symlink_to("/data")
    (root / "data/back").symlink_to("../data/deep/.././deep")
    deliver(place, "/var/back/file", Recorder(b"content"))
    assert (root / "data/deep/file").read_bytes() == b"content"


def test_symlinks_in_a_circle_end(place: DirectoryPlace) -> None:
    root = root_of(place)
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("/a")
    for create_parents in (False, True):
        with pytest.raises(PermanentError) as caught:
            deliver(place, "/a/file", Recorder(b"content"), create_parents=create_parents)
        assert caught.value.reason == "SYMLINK_LOOP"


def test_dangling_symlink_at_the_destination_is_replaced(place: DirectoryPlace, outside: Path) -> None:
    (root_of(place) / "etc/link").symlink_to(outside / "new")
    deliver(place, "/etc/link", Recorder(b"content"))
    assert not (root_of(place) / "etc/link").is_symlink()
    (root_of(place) / "etc/other").symlink_to(outside / "file")
    with pytest.raises(PermanentError) as caught:
        deliver(place, "/etc/other", Recorder(b"content"), replace=False)
    assert caught.value.reason == "ALREADY_EXISTS"


def test_planted_temp_symlink_is_not_written_through(place: DirectoryPlace, outside: Path) -> None:

    for temp in temps_of("/etc/file", TASK, 1):
        (root_of(place) / temp.lstrip("/")).symlink_to(outside / "file")
    with pytest.raises(TransientError) as caught:
        deliver(place, "/etc/file", Recorder(b"stolen"))
    assert caught.value.reason == "ALREADY_EXISTS"


@pytest.mark.parametrize("instance", ["..", ".", "a/b", "", "-x", "x" * 64, "a\0b", "x y", "../outside"])
def test_instance_names_that_are_paths_are_refused(place: DirectoryPlace, outside: Path, instance: str) -> None:
    with pytest.raises(PermanentError) as caught:
        deliver(place, "/file", Recorder(b"stolen"), instance=instance)
    assert caught.value.reason == "INVALID_ARGUMENT"
    with pytest.raises(PermanentError):
        place.target.probe("", instance)


def test_symlinked_root_is_no_instance(place: DirectoryPlace, outside: Path) -> None:
    (place.base / "linked").symlink_to(outside)
    assert place.target.probe("", "linked") is InstanceState.ABSENT
    with pytest.raises(PermanentError) as caught:
        deliver(place, "/file", Recorder(b"stolen"), instance="linked")
    assert caught.value.reason == "INSTANCE_NOT_FOUND"


def test_folder_that_is_swapped_for_a_symlink_while_we_push(place: DirectoryPlace, outside: Path) -> None:
    """A rival inside the instance swaps a folder and a symlink out, as fast as it can."""
    root = root_of(place)
    (root / "folder").mkdir()
    (root / "trap").symlink_to(outside)

    def swap() -> None:
        # Exchange the two names in one step, again and again.
        script = (
            "import ctypes, os, sys\n"
            "libc = ctypes.CDLL(None)\n"
            "a, b = os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2])\n"
            "while os.getppid() != 1 and not os.path.exists(sys.argv[3]):\n"
            "    for _ in range(100): libc.renameat2(-100, a, -100, b, 2)\n"
        )
        subprocess.run([sys.executable, "-c", script, root / "folder", root / "trap", place.base / "end"], check=True)

    rival = threading.Thread(target=swap)
    rival.start()
    try:
        done = 0
        for number in range(400):
            try:
                deliver(place, f"/folder/file-{number}", Recorder(b"content"), create_parents=number % 2 == 0)
                done += 1
            except AttemptError:
                continue  # Refused, or found nothing: anything but a file outside.
    finally:
        (place.base / "end").touch()
        rival.join()
    assert done, "no push met the folder: the race was none"


def test_parents_are_0755_whatever_the_umask(place: DirectoryPlace) -> None:
    before = os.umask(0o077)
    try:
        deliver(place, "/srv/a/b/file", Recorder(b"content"), create_parents=True)
    finally:
        os.umask(before)
    for folder in ("/srv", "/srv/a", "/srv/a/b"):
        assert place.owner_and_mode(folder) == (0, 0, 0o755)
    assert place.owner_and_mode("/srv/a/b/file") == (0, 0, 0o644)


def test_full_disk_is_permanent_and_leaves_the_old_file(place: DirectoryPlace) -> None:

    require_root()
    small = root_of(place) / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        (small / "file").write_bytes(b"old")
        with pytest.raises(PermanentError) as caught:
            deliver(place, "/small/file", Recorder.of_size(2_000_000))
        assert caught.value.reason == "NO_SPACE"
        assert (small / "file").read_bytes() == b"old"
        assert place.temps() == ""
    finally:
        subprocess.run(["umount", small], check=True)


def test_absent_root_and_unmounted_base(place: DirectoryPlace, tmp_path: Path) -> None:
    with pytest.raises(NotReadyError) as waits:
        deliver(place, "/file", Recorder(b"content"), instance="nobody", when_absent=WhenAbsent.WAIT)
    assert waits.value.condition == "EXISTS"
    gone = DirectoryPlace(place.base, DirectoryTarget("t", str(tmp_path / "unmounted")), "box")
    with pytest.raises(TransientError, match="is it mounted") as caught:
        deliver(gone, "/file", Recorder(b"content"))
    assert caught.value.reason == "TARGET_UNREACHABLE"


def test_a_root_is_never_stopped(place: DirectoryPlace) -> None:
    assert place.target.probe("", "box") is InstanceState.RUNNING
    deliver(place, "/file", Recorder(b"content"), when_stopped=WhenStopped.FAIL)


def test_projects_are_refused_and_not_ignored(place: DirectoryPlace) -> None:
    deliver(place, "/file", Recorder(b"content"), project="default")
    with pytest.raises(PermanentError) as caught:
        deliver(place, "/file", Recorder(b"content"), project="other")
    assert caught.value.reason == "UNSUPPORTED_PROJECT"


def test_ids_beyond_the_kernels_are_permanent(place: DirectoryPlace) -> None:
    with pytest.raises(PermanentError) as caught:
        deliver(place, "/file", Recorder(b"content"), attributes=Attributes(uid=2**32 - 1, gid=2**33))
    assert caught.value.reason == "INVALID_ARGUMENT"
    assert place.temps() == ""


def test_identity_is_of_the_folder(place: DirectoryPlace, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(place.base)
    assert DirectoryTarget("a", str(tmp_path / "alias")).identity() == place.target.identity()
    assert DirectoryTarget("b", str(tmp_path)).identity() != place.target.identity()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_stays_open(place: DirectoryPlace) -> None:
    deliver(place, "/etc/file", Recorder(b"content"))
    before = open_descriptors()
    for _ in range(20):
        deliver(place, "/etc/a/b/c/file", Recorder(b"content"), create_parents=True)
        with pytest.raises(PermanentError):
            deliver(place, "/none/file", Recorder(b"content"))
    assert open_descriptors() == before


def test_watch_reports_roots_that_come_and_go(place: DirectoryPlace) -> None:
    seen = Seen()
    watch = place.target.watch(seen)
    try:
        seen.wait_for(InstanceChange("", "box", InstanceState.RUNNING))
        (place.base / "new").mkdir()
        seen.wait_for(InstanceChange("", "new", InstanceState.RUNNING))
        (place.base / "new").rmdir()
        seen.wait_for(InstanceChange("", "new", InstanceState.ABSENT))
    finally:
        watch.close()


@pytest.mark.parametrize("replace", [True, False])
def test_file_and_folder_are_synced_in_that_order(place: DirectoryPlace, replace: bool) -> None:
    events: list[str] = []
    real_sync, real_rename, real_link = os.fsync, os.rename, os.link

    def sync(descriptor: int) -> None:
        events.append("sync folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "sync file")  # noqa: PTH112
        real_sync(descriptor)

    def rename(*arguments: object, **more: object) -> None:
        events.append("commit")
        real_rename(*arguments, **more)  # type: ignore[arg-type]

    def link(*arguments: object, **more: object) -> None:
        events.append("commit")
        real_link(*arguments, **more)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        patch.setattr(os, "rename", rename)
        patch.setattr(os, "link", link)
        deliver(place, "/etc/file", Recorder(b"content"), replace=replace)
    assert events == ["sync file", "commit", "sync folder"]


def test_no_push_leaves_a_temp_below_folders_that_are_exchanged_all_the_time(place: DirectoryPlace) -> None:
    root = root_of(place)
    for name in ("a", "b"):
        (root / name / "deep").mkdir(parents=True)
    over = threading.Event()

    def exchange() -> None:
        while not over.is_set():
            (root / "a").rename(root / "c")
            (root / "b").rename(root / "a")
            (root / "c").rename(root / "b")

    exchanging = threading.Thread(target=exchange)
    exchanging.start()
    ended: dict[str, int] = {}
    try:
        for number in range(400):
            recorder = Recorder(b"content of some length")
            try:
                told = deliver(place, "/a/deep/file", recorder, attempt=number + 1).left_temps
                how = "delivered"
            except AttemptError as error:
                told, how = error.left_temps, error.reason
            ended[how] = ended.get(how, 0) + 1
            assert not told, "nobody but us removes or moves a temp itself"
    finally:
        over.set()
        exchanging.join()
    assert place.temps() == ""
    assert ended.get("delivered", 0) > 0
    assert set(ended) <= {"delivered", "TEMP_MISSING", "PARENT_MISSING"}
    assert len(ended) > 1, "the race was not run: nothing was ever exchanged in the middle"


@contextmanager
def spare_descriptors(count: int) -> Iterator[None]:
    """So many more can be opened while the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    held = [os.open(os.devnull, os.O_RDONLY)]
    while held[-1] < highest:
        held.append(os.open(os.devnull, os.O_RDONLY))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(held[-1], highest) + 1 + count, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in held:
            os.close(each)


def test_a_worker_without_free_descriptors_reports_every_temp_that_it_leaves(place: DirectoryPlace) -> None:
    """A temp was made, and no descriptor was left to remember its folder by: it stayed, and nobody was told."""
    met = set()
    for spare in range(20):
        left_temps = False
        with spare_descriptors(spare):
            try:
                deliver(place, f"/etc/file-{spare}", Recorder(b"content"))
            except AttemptError as error:
                left_temps = error.left_temps
                met.add(error.reason)
        assert left_temps is (place.temps() != ""), f"with {spare} descriptors"
    assert "TARGET_BUSY" in met
    assert place.read("/etc/file-19") == b"content"
