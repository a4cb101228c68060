"""Locks on the state folder prove which sessions are certainly dead; these tests show the limits of the proof too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from longshore.worker.agent.earlier_sessions import Slot

A, B, C = (letter * 20 for letter in "abc")


def test_a_first_worker_knows_of_no_dead(tmp_path: Path) -> None:
    slot = Slot.take(tmp_path / "state", "w", A)
    assert slot.dead_sessions == ()
    assert (tmp_path / "state/w").read_text() == f"{A}\n"
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    slot.close()


def test_holding_the_lock_proves_the_last_holder_dead(tmp_path: Path) -> None:
    Slot.take(tmp_path, "w", A).close()
    slot = Slot.take(tmp_path, "w", B)
    assert slot.dead_sessions == (A,)
    slot.close()


def test_a_holder_that_left_cleanly_is_not_named(tmp_path: Path) -> None:
    Slot.take(tmp_path, "w", A).close(ended=True)
    slot = Slot.take(tmp_path, "w", B)
    assert slot.dead_sessions == ()
    slot.close()


def test_a_living_holder_is_left_alone_and_the_next_slot_taken(tmp_path: Path) -> None:
    first = Slot.take(tmp_path, "w", A)
    second = Slot.take(tmp_path, "w", B)
    assert (second.path.name, second.dead_sessions) == ("w.2", ())
    assert first.path.read_text() == f"{A}\n"
    second.close()
    first.close()


def test_the_dead_of_other_slots_are_named_too_and_once(tmp_path: Path) -> None:
    first = Slot.take(tmp_path, "w", A)
    Slot.take(tmp_path, "w", B).close()
    first.close()
    slot = Slot.take(tmp_path, "w", C)
    assert slot.dead_sessions == (A, B)
    slot.told(slot.dead_sessions)
    assert slot.path.read_text() == f"{C}\n"
    other = Slot.take(tmp_path, "w", "d" * 20)
    assert other.dead_sessions == ()
    other.close()
    slot.close()


def test_the_dead_that_no_server_has_heard_of_are_passed_on(tmp_path: Path) -> None:
    Slot.take(tmp_path, "w", A).close()
    Slot.take(tmp_path, "w", B).close()
    slot = Slot.take(tmp_path, "w", C)
    assert slot.dead_sessions == (B, A)
    slot.told((B,))
    slot.close()
    slot = Slot.take(tmp_path, "w", "d" * 20)
    assert slot.dead_sessions == (C, A)
    slot.close()


def test_workers_of_other_names_are_not_touched(tmp_path: Path) -> None:
    Slot.take(tmp_path, "w-other", A).close()
    Slot.take(tmp_path, "w.other", A).close()
    slot = Slot.take(tmp_path, "w", B)
    assert slot.dead_sessions == ()
    slot.close()


def test_rubbish_in_a_slot_names_no_process(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"short\n\xff\xfe\n" + b"x" * 100 + b"\n")
    slot = Slot.take(tmp_path, "w", A)
    assert slot.dead_sessions == ()
    slot.close()


def test_a_killed_process_gives_its_lock_back_and_a_stopped_one_does_not(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom longshore.worker.agent.earlier_sessions import Slot\n"
        f"slot = Slot.take(Path(sys.argv[1]), 'w', {A!r})\nprint('taken', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"taken\n"
        beside = Slot.take(tmp_path, "w", B)
        assert beside.dead_sessions == ()
        beside.close(ended=True)
        process.kill()
    slot = Slot.take(tmp_path, "w", C)
    assert slot.dead_sessions == (A,)
    slot.close()
