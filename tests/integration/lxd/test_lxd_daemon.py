"""Pushing into LXD when the daemon, the instance or the disk has other plans."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from longshore.contract.enums import WhenAbsent, WhenStopped
from longshore.worker.errors import AttemptStopped, NotReadyError, PermanentError, TransientError
from longshore.worker.file_push.push import push_file
from longshore.worker.targets import Attributes, InstanceChange, InstanceState
from longshore.worker.targets.lxd.target import LxdTarget
from longshore.worker.targets.transport import DaemonEndpoint, Timeouts
from tests.support.workers.lxd import LxdDaemon
from tests.support.workers.pushing import LxdPlace, Recorder, Seen, a_push, deliver

pytestmark = pytest.mark.lxd

QUICK = Timeouts(connect_s=1.0, answer_s=1.5, cleanup_s=0.5)
"""For daemons that hang for sure."""
IMPATIENT = Timeouts(connect_s=5.0, answer_s=2.0, cleanup_s=10.0)
"""For instances that are held while the daemon answers, however busy this machine is."""


def open_lxd(daemon: LxdDaemon, timeouts: Timeouts | None = None, poll_s: float = 0.5) -> closing[LxdTarget]:
    return closing(LxdTarget("t", DaemonEndpoint(socket_path=str(daemon.socket)), timeouts=timeouts, poll_s=poll_s))


@pytest.fixture
def target(lxd: LxdDaemon) -> Iterator[LxdTarget]:
    with open_lxd(lxd) as opened:
        yield opened


@pytest.fixture
def place(lxd: LxdDaemon, box: str, target: LxdTarget) -> LxdPlace:
    return LxdPlace(lxd, target, box)


@pytest.fixture(scope="module")
def sleeper(lxd: LxdDaemon) -> str:
    """An instance that tests start and stop."""
    return lxd.create("sleeper")


def stop(lxd: LxdDaemon, name: str) -> None:
    if next(row for row in lxd.instances() if row["name"] == name)["status"] != "Stopped":
        lxd.lxc("stop", "--force", name)


def start(lxd: LxdDaemon, name: str) -> None:
    if next(row for row in lxd.instances() if row["name"] == name)["status"] == "Stopped":
        lxd.lxc("start", name)


# -- instances that do not run -------------------------------------------------------------------------------------


def test_stopped_instance_takes_files_and_starts_afterwards(lxd: LxdDaemon, sleeper: str, target: LxdTarget) -> None:
    stop(lxd, sleeper)
    assert target.probe("", sleeper) is InstanceState.STOPPED
    place = LxdPlace(lxd, target, sleeper)
    deliver(place, "/root/asleep", Recorder(b"content"), attributes=Attributes(0o640, 7, 8))
    lxd.lxc("start", sleeper, timeout=20)
    assert target.probe("", sleeper) is InstanceState.RUNNING
    assert place.read("/root/asleep") == b"content"
    assert place.owner_and_mode("/root/asleep") == (7, 8, 0o640)
    assert place.temps() == ""


def test_frozen_instance_takes_files(lxd: LxdDaemon, sleeper: str, target: LxdTarget) -> None:
    start(lxd, sleeper)
    lxd.lxc("pause", sleeper)
    try:
        assert target.probe("", sleeper) is InstanceState.FROZEN
        deliver(LxdPlace(lxd, target, sleeper), "/root/frozen", Recorder(b"content"), when_stopped=WhenStopped.FAIL)
    finally:
        lxd.lxc("start", sleeper)
    assert lxd.read(sleeper, "/root/frozen") == b"content"


def test_stopped_instance_as_the_task_wants_it(lxd: LxdDaemon, sleeper: str, target: LxdTarget) -> None:
    stop(lxd, sleeper)
    place = LxdPlace(lxd, target, sleeper)
    with pytest.raises(NotReadyError) as waits:
        deliver(place, "/root/file", Recorder(b"content"), when_stopped=WhenStopped.WAIT)
    assert (waits.value.reason, waits.value.condition) == ("INSTANCE_STOPPED", "RUNNING")
    with pytest.raises(PermanentError) as fails:
        deliver(place, "/root/file", Recorder(b"content"), when_stopped=WhenStopped.FAIL)
    assert fails.value.reason == "INSTANCE_STOPPED"
    assert target.statistics() == (0, 0), "nothing was opened that could keep it from starting"


def test_absent_instance_as_the_task_wants_it(place: LxdPlace) -> None:
    with pytest.raises(NotReadyError) as waits:
        deliver(place, "/root/file", Recorder(b"content"), instance="nobody", when_absent=WhenAbsent.WAIT)
    assert (waits.value.reason, waits.value.condition) == ("INSTANCE_NOT_FOUND", "EXISTS")
    with pytest.raises(PermanentError, match="nobody") as fails:
        deliver(place, "/root/file", Recorder(b"content"), instance="nobody")
    assert fails.value.reason == "INSTANCE_NOT_FOUND"


def test_other_project_is_another_instance(lxd: LxdDaemon, box: str, place: LxdPlace) -> None:
    lxd.lxc("project", "create", "other", "-c", "features.images=false", "-c", "features.profiles=false")
    lxd.lxc("init", "-q", "bb", "elsewhere", "--project", "other")
    try:
        assert place.target.probe("other", box) is InstanceState.ABSENT
        deliver(place, "/root/file", Recorder(b"content"), instance="elsewhere", project="other")
        assert lxd.lxc("file", "pull", "--project", "other", "elsewhere/root/file", "-") == "content"
    finally:
        place.target.close_idle()
        lxd.lxc("delete", "--force", "--project", "other", "elsewhere")
        lxd.lxc("project", "delete", "other")


# -- the disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(lxd: LxdDaemon, box: str) -> Iterator[str]:
    lxd.run_in(box, "mkdir -p /small && mount -t tmpfs -o size=1m tmpfs /small")
    yield "/small"
    lxd.run_in(box, "umount /small")


@pytest.mark.parametrize("size", [1_100_000, 3_000_000])
def test_full_disk_is_permanent_and_leaves_the_old_file(place: LxdPlace, small: str, size: int) -> None:
    place.plant("/small/file", b"old")
    recorder = Recorder.of_size(size)
    with pytest.raises(PermanentError) as caught:
        deliver(place, "/small/file", recorder)
    assert caught.value.reason == "NO_SPACE"
    assert recorder.opened == 1, "a full disk is not tried again"
    assert recorder.grants == []
    assert place.read("/small/file") == b"old"
    assert place.temps() == ""
    assert place.target.statistics() == (1, 0), "the session is in step and kept"
    deliver(place, "/small/file", Recorder(b"new"))
    assert place.read("/small/file") == b"new"


def test_read_only_file_system_is_permanent(place: LxdPlace, small: str) -> None:
    place.run("mount -o remount,ro /small")
    with pytest.raises(PermanentError) as caught:
        deliver(place, "/small/file", Recorder(b"new"))
    assert caught.value.reason == "READ_ONLY"


def test_kernel_file_system_is_permanent(place: LxdPlace) -> None:
    with pytest.raises(PermanentError) as caught:
        deliver(place, "/sys/kernel/file", Recorder(b"new"))
    assert caught.value.reason == "PERMISSION_DENIED"


def test_device_is_not_replaced(place: LxdPlace) -> None:
    with pytest.raises(PermanentError) as caught:
        deliver(place, "/dev/null", Recorder(b"new"))
    assert caught.value.reason == "NOT_A_FILE"


# -- a session in the way of `lxc stop` ----------------------------------------------------------------------------


def test_idle_session_is_closed_so_that_the_instance_can_stop(lxd: LxdDaemon, sleeper: str, target: LxdTarget) -> None:
    start(lxd, sleeper)
    deliver(LxdPlace(lxd, target, sleeper), "/root/file", Recorder(b"content"))
    assert target.statistics() == (1, 0), "kept for the next file"
    lxd.lxc("stop", "--force", sleeper, timeout=10)
    assert target.statistics() == (0, 0)


def test_stop_during_a_push_waits_for_it_and_both_end_well(lxd: LxdDaemon, sleeper: str, target: LxdTarget) -> None:
    start(lxd, sleeper)
    stopping: list[subprocess.Popen[str]] = []

    def rival(done: int) -> None:
        if done > 1_000_000 and not stopping:
            stopping.append(lxd.lxc_process("stop", "--force", sleeper))
            wait_for_operation(lxd)

    recorder = Recorder.of_size(4_000_000)
    recorder.on_progress = rival
    deliver(LxdPlace(lxd, target, sleeper), "/root/file", recorder)
    output, _ = stopping[0].communicate(timeout=20)
    assert stopping[0].returncode == 0, output
    assert target.probe("", sleeper) is InstanceState.STOPPED
    lxd.lxc("start", sleeper, timeout=20)
    assert lxd.read(sleeper, "/root/file") == recorder.data


def test_push_while_a_stop_waits_says_that_the_instance_is_busy(lxd: LxdDaemon, sleeper: str) -> None:
    start(lxd, sleeper)
    with open_lxd(lxd) as first, open_lxd(lxd, IMPATIENT) as second:
        with first.open("", sleeper):
            stopping = lxd.lxc_process("stop", "--force", sleeper)
            place = LxdPlace(lxd, second, sleeper)

            def push_until_refused() -> None:
                # The stop needs a moment to begin; until then pushes succeed.
                deadline = time.monotonic() + 20
                while time.monotonic() < deadline:
                    deliver(place, "/root/file", Recorder(b"content"))
                    second.close_idle()

            with pytest.raises(TransientError) as caught:
                push_until_refused()
            assert caught.value.reason == "INSTANCE_BUSY"
        output, _ = stopping.communicate(timeout=20)
        assert stopping.returncode == 0, output


def test_steady_traffic_does_not_keep_an_instance_from_stopping(lxd: LxdDaemon, sleeper: str) -> None:
    start(lxd, sleeper)
    ended = threading.Event()

    def traffic(place: LxdPlace, number: int) -> str:
        while not ended.is_set():
            try:
                deliver(place, f"/root/file-{number}", Recorder(b"content"), task_id=f"T{number}")
            except TransientError as error:
                return error.reason
        return "never in the way"

    with open_lxd(lxd, IMPATIENT) as target, ThreadPoolExecutor(2) as threads:
        running = [threads.submit(traffic, LxdPlace(lxd, target, sleeper), n) for n in range(2)]
        try:
            lxd.lxc("stop", "--force", sleeper, timeout=30)
        finally:
            ended.set()
        assert {one.result(30) for one in running} <= {"INSTANCE_BUSY", "never in the way"}


def wait_for_operation(lxd: LxdDaemon) -> None:
    """Until the daemon has taken up an operation on an instance."""
    deadline = time.monotonic() + 10
    while "instance" not in lxd.lxc("operation", "list", "--format=csv").lower():
        assert time.monotonic() < deadline, "no operation began"


# -- a daemon that hangs, or dies ----------------------------------------------------------------------------------


def test_hung_daemon_meets_a_time_out(lxd: LxdDaemon, box: str) -> None:
    with open_lxd(lxd, QUICK) as target:
        place = LxdPlace(lxd, target, box)
        deliver(place, "/root/hung", Recorder(b"old"))
        with lxd.hung():
            for ask in (target.identity, lambda: target.probe("", box)):
                began = time.monotonic()
                with pytest.raises(TransientError) as caught:
                    ask()
                assert caught.value.reason == "TARGET_TIMEOUT"
                assert time.monotonic() - began < 4
            began = time.monotonic()
            with pytest.raises(TransientError) as caught, target.open("", box) as delivery:
                delivery.stat("/root/hung")
            assert caught.value.reason == "TARGET_TIMEOUT"
            assert time.monotonic() - began < 4
        deliver(place, "/root/hung", Recorder(b"new"))
        assert place.read("/root/hung") == b"new"


def test_daemon_that_hangs_in_the_middle_of_a_push(lxd: LxdDaemon, box: str) -> None:
    recorder = Recorder.of_size(30_000_000)
    with open_lxd(lxd, QUICK) as target, lxd.hung_when() as hang:
        place = LxdPlace(lxd, target, box)
        deliver(place, "/root/hung", Recorder(b"old"))
        recorder.on_progress = lambda done: hang() if done > 2_000_000 else None
        with pytest.raises(TransientError) as caught:
            deliver(place, "/root/hung", recorder)
        assert caught.value.reason == "TARGET_TIMEOUT"
        assert recorder.opened == 1, "a hung daemon is not tried again at once"
        assert caught.value.left_temps, "what could not be removed is said"
    assert place.read("/root/hung") == b"old"
    place.run("rm -f /root/.longshore-*")


def test_cancel_does_not_sit_out_a_hung_daemon(lxd: LxdDaemon, box: str) -> None:
    patient = Timeouts(connect_s=30, answer_s=60, cleanup_s=0.5)
    recorder = Recorder.of_size(30_000_000)
    with open_lxd(lxd, patient) as target, lxd.hung_when() as hang:

        def hang_and_cancel(done: int) -> None:
            if done > 2_000_000:
                hang()
                threading.Timer(0.3, recorder.stop).start()
                recorder.on_progress = lambda done: None

        recorder.on_progress = hang_and_cancel
        began = time.monotonic()
        with pytest.raises(AttemptStopped) as caught:
            deliver(LxdPlace(lxd, target, box), "/root/hung", recorder)
        assert time.monotonic() - began < 10
        assert caught.value.left_temps
    lxd.run_in(box, "rm -f /root/.longshore-*")


def test_killed_daemon_leaves_the_old_file(lxd_of_my_own: LxdDaemon) -> None:
    lxd = lxd_of_my_own
    with open_lxd(lxd, QUICK) as target:
        place = LxdPlace(lxd, target, lxd.launch("mine"))
        deliver(place, "/root/file", Recorder(b"old"))
        recorder = Recorder.of_size(30_000_000)
        killed = threading.Event()

        def kill(done: int) -> None:
            if done > 2_000_000 and not killed.is_set():
                killed.set()
                lxd.kill()

        recorder.on_progress = kill
        with pytest.raises(TransientError) as caught:
            deliver(place, "/root/file", recorder)
        assert caught.value.reason in ("TARGET_UNREACHABLE", "TARGET_TIMEOUT")
        assert caught.value.left_temps
        lxd.start()
        assert place.read("/root/file") == b"old"
        deliver(place, "/root/file", recorder, attempt=2)
        assert place.read("/root/file") == recorder.data


def test_daemon_that_is_not_there() -> None:
    target = LxdTarget("t", DaemonEndpoint(socket_path="/nonexistent/unix.socket"), timeouts=QUICK)
    for ask in (target.identity, lambda: target.probe("", "box")):
        with pytest.raises(TransientError) as caught:
            ask()
        assert caught.value.reason == "TARGET_UNREACHABLE"


# -- races


def test_exactly_one_of_remove_and_rename_wins(place: LxdPlace) -> None:
    """Settling a lost commit relies on this. Each run has 300 races; 5,000 were run once."""
    target = place.target
    outcomes = set()
    with ThreadPoolExecutor(1) as other, target.open("", place.instance) as a, target.open("", place.instance) as b:
        for number in range(300):
            temp, path = f"/root/.longshore-race-{number}-1.tmp", f"/root/race-{number}"
            a.create_temp(temp, Attributes(0o600, 0, 0)).finish()
            barrier = threading.Barrier(2)

            def rename(temp: str = temp, path: str = path, barrier: threading.Barrier = barrier) -> bool:
                barrier.wait()
                try:
                    b.commit(temp, path, replace=True)
                except TransientError:
                    return False
                return True

            renaming = other.submit(rename)
            barrier.wait()
            removed = a.remove(temp)
            renamed = renaming.result(20)
            assert removed is not renamed
            assert (a.stat(path) is not None) is renamed
            outcomes.add(renamed)
    place.run("rm -f /root/race-*")
    assert outcomes, "no race was run"


def test_many_threads_push_into_one_instance(place: LxdPlace) -> None:
    with ThreadPoolExecutor(8) as threads:
        recorders = [Recorder(os.urandom(3_000)) for _ in range(64)]
        list(threads.map(lambda n: deliver(place, f"/root/many-{n}", recorders[n], task_id=f"T{n}"), range(64)))
    for number in (0, 31, 63):
        assert place.read(f"/root/many-{number}") == recorders[number].data
    assert place.temps() == ""
    place.run("rm -f /root/many-*")


def test_descriptors_above_1023(place: LxdPlace) -> None:
    """poll, and not select."""
    ballast = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        with open_lxd(place.daemon) as fresh:
            deliver(LxdPlace(place.daemon, fresh, place.instance), "/root/high", Recorder.of_size(3_000_000))
    finally:
        for descriptor in ballast:
            os.close(descriptor)


# -- watching


@pytest.mark.parametrize("poll_s", [0.3, 600.0], ids=["poll", "events"])
def test_the_watch_reports_instance_changes(lxd: LxdDaemon, sleeper: str, poll_s: float) -> None:
    stop(lxd, sleeper)
    seen = Seen()
    with open_lxd(lxd, poll_s=poll_s) as target, closing(target.watch(seen)):
        seen.wait_for(InstanceChange("default", sleeper, InstanceState.STOPPED))
        lxd.lxc("start", sleeper)
        seen.wait_for(InstanceChange("default", sleeper, InstanceState.RUNNING))
        lxd.create("passing")
        seen.wait_for(InstanceChange("default", "passing", InstanceState.STOPPED))
        lxd.lxc("delete", "passing")
        seen.wait_for(InstanceChange("default", "passing", InstanceState.ABSENT))


def test_watch_outlives_the_daemon(lxd_of_my_own: LxdDaemon) -> None:
    lxd = lxd_of_my_own
    lxd.create("mine")
    seen = Seen()
    with open_lxd(lxd, QUICK, poll_s=600) as target, closing(target.watch(seen)):
        seen.wait_for(InstanceChange("default", "mine", InstanceState.STOPPED))
        lxd.kill()
        lxd.start()
        seen.wait_for(InstanceChange("default", "mine", InstanceState.STOPPED))
        lxd.lxc("start", "mine")
        seen.wait_for(InstanceChange("default", "mine", InstanceState.RUNNING))


def test_identity_is_the_daemons_and_outlives_it(lxd_of_my_own: LxdDaemon, lxd: LxdDaemon) -> None:
    with open_lxd(lxd_of_my_own, QUICK) as mine, open_lxd(lxd) as other:
        identity = mine.identity()
        assert identity != other.identity()
        lxd_of_my_own.kill()
        lxd_of_my_own.start()
        assert mine.identity() == identity


def test_a_push_cancelled_before_it_began_does_nothing(place: LxdPlace) -> None:
    recorder = Recorder(b"content", stopped=True)
    with pytest.raises(AttemptStopped):
        push_file(a_push(place.instance, "/root/file", b"content"), recorder, place.target)
    assert recorder.opened == 0
