"""`longshore push` from the shell to the file in the instance, and how it ends."""

from __future__ import annotations

import array
import fcntl
import hashlib
import json
import os
import subprocess
import termios
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.commandline import COMMAND, CommandLine, ids
from tests.support.servers.processes import eventually
from tests.support.servers.stage import Stage


@pytest.mark.cluster("P1")
def test_wait_ends_when_the_file_is_delivered(cli: CommandLine, instance: str, root: Path) -> None:
    done = cli.run("push", "motd", f"{instance}/etc/motd", "--mode", "600", "--wait")
    assert (done.code, done.err) == (0, "")
    assert (root / "etc/motd").read_text() == "hello\n"
    assert (root / "etc/motd").stat().st_mode & 0o777 == 0o600
    [line] = done.lines
    assert line.split()[1:] == ["succeeded", f"{instance}/etc/motd"]


def test_a_detached_push_prints_the_task(cli: CommandLine, stage: Stage, instance: str) -> None:
    done = cli.run("push", "motd", f"{instance}/etc/motd", "--output", "id")
    assert done.code == 0
    [task_id] = done.lines
    assert stage.client.wait(task_id).file_push.destination.path == "/etc/motd"


def test_json_has_one_task_per_line(cli: CommandLine, instance: str) -> None:
    done = cli.run("push", "motd", "--to", f"{instance}/etc/a", "--to", f"{instance}/etc/b", "--wait", "-o", "json")
    assert (done.code, done.err) == (0, "")
    assert {task["file_push"]["destination"]["path"] for task in done.objects} == {"/etc/a", "/etc/b"}
    assert {task["state"] for task in done.objects} == {"TASK_STATE_SUCCEEDED"}


def test_several_files_into_a_directory(cli: CommandLine, instance: str, root: Path) -> None:
    for name in ("a", "b", "c"):
        (cli.folder / name).write_text(name * 1000)
    done = cli.run("push", "a", "b", "c", f"{instance}/srv/app/", "--create-dirs", "--wait")
    assert done.code == 0
    assert sorted(path.name for path in (root / "srv/app").iterdir()) == ["a", "b", "c"]
    assert (root / "srv/app/b").read_text() == "b" * 1000


def test_created_directories_have_the_mode_that_is_asked_for(cli: CommandLine, instance: str, root: Path) -> None:
    done = cli.run("push", "motd", f"{instance}/srv/app/motd", "-p", "--dir-mode", "700", "--wait")
    assert done.code == 0
    assert [(root / each).stat().st_mode & 0o777 for each in ("srv", "srv/app")] == [0o700, 0o700]


def test_in_place_writes_into_the_file_that_is_there(cli: CommandLine, instance: str, root: Path) -> None:
    there = root / "etc/there"
    there.write_text("old, and longer than the new one")
    before = there.stat().st_ino
    done = cli.run("push", "motd", f"{instance}/etc/there", "--in-place", "--wait", "-o", "id")
    assert done.code == 0
    assert (there.read_text(), there.stat().st_ino) == ("hello\n", before)
    shown = cli.run("get", done.lines[0]).out
    assert "in place: verified, written into the file that was there, not atomic" in " ".join(shown.split())


@pytest.mark.parametrize("how", ["pipe", "redirected", "null"])
def test_standard_input(cli: CommandLine, instance: str, root: Path, how: str) -> None:
    content = b"" if how == "null" else os.urandom(3_000_000)
    arguments = ["push", "-", f"{instance}/etc/in", "--wait"]
    if how == "pipe":
        assert cli.run(*arguments, stdin=content).code == 0
    else:
        (cli.folder / "content").write_bytes(content)
        where = cli.folder / "content" if how == "redirected" else Path(os.devnull)
        with where.open("rb") as file:
            subprocess.run(
                [*COMMAND, *arguments], stdin=file, env=cli.environment, check=True, capture_output=True, timeout=60
            )
    assert (root / "etc/in").read_bytes() == content


def test_failed_is_3_and_says_why(cli: CommandLine, instance: str, root: Path) -> None:
    done = cli.run("push", "motd", f"{instance}/nowhere/motd", "--wait")
    assert done.code == 3
    assert "failed" in done.out
    assert "PARENT_MISSING" in done.out
    assert f"/nowhere does not exist in {instance}: create it, or push with" in " ".join(done.out.split())
    (root / "etc/there").write_text("old")
    assert cli.run("push", "motd", f"{instance}/etc/there", "--wait", "--no-replace").code == 3
    assert (root / "etc/there").read_text() == "old"


def test_expired_is_5(cli: CommandLine) -> None:
    done = cli.run("push", "motd", "not-there/etc/x", "--when-absent", "wait", "--expire-after", "1s", "--wait")
    assert (done.code, done.lines[0].split()[1]) == (5, "expired")


def test_cancelled_is_4(cli: CommandLine, stage: Stage) -> None:
    [task_id] = cli.run("push", "motd", "never-there/etc/x", "--when-absent", "wait", "-o", "id").lines
    waiting = cli.start("watch", task_id)
    assert waiting.stdout is not None
    assert waiting.stdout.readline()
    done = cli.run("cancel", task_id, "--reason", "no more")
    assert done.code == 0
    out, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 4
    assert b"no more" in out
    assert cli.run("cancel", task_id).code == 0
    assert stage.client.get(task_id).cancel_reason == "no more"


def test_the_worst_of_several_counts(cli: CommandLine, instance: str) -> None:
    done = cli.run("push", "motd", "--to", f"{instance}/etc/a", "--to", f"{instance}/none/b", "--wait")
    assert done.code == 3
    assert sorted(line.split()[1] for line in done.lines) == ["failed", "succeeded"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["push", "motd", "web/x", "--mode", "9"], 2, "777"),
        (["push", "motd", "web/x", "--not-before", "soon"], 2, "30s"),
        (["push", "motd", "web/x", "--label", "x"], 2, "KEY=VALUE"),
        (["push", "motd", "web/x", "--nonsense"], 2, "nonsense"),
        (["push", "motd"], 2, "nothing to push"),
        (["push", "motd", "web"], 2, "TARGET"),
        (["push", "none", "web/x"], 2, "cannot read none: No such file"),
        (["push", ".", "web/x"], 2, "is a directory"),
        (["push", "motd", "web/x", "--queue", "Große"], 2, "'Große' is no name"),
        (["push", "motd", "web/../../x"], 2, "web/../../x: the path has '..'"),
        (["push", "motd", "Über:web/x"], 2, "'Über' is no name of a target"),
        (["push", "motd", "we b/x"], 2, "'we b' is no name of an instance"),
        (["push", "motd", "/x"], 2, "expected [TARGET:]INSTANCE/PATH"),
        (["push", "motd", "web/" + "x" * 256], 2, "256 bytes; at most 255"),
        (["push", "motd", "web/x", "--label", "A=b"], 2, "no key of a label"),
        (["push", "motd", "web/x", "--request-id", "é"], 2, "printable ASCII"),
        (["push", "motd", "web/x", "--run-timeout", "8d"], 2, "at most 7d"),
        (["push", "motd", "web/x", "--expire-after", "400d"], 2, "at most 366d"),
        (["push", "motd", "web/x", "--not-before", "2h", "--expire-after", "1h"], 2, "would expire unstarted"),
        (["push", "motd", "web/x", "--uid", "4294967295"], 2, "4294967294"),
        (["submit", "Resize"], 2, "'Resize' is no name"),
        (["submit", "resize", "--instance", "web"], 2, "--target"),
        (["get", "no-such-task"], 6, "NOT_FOUND"),
        (["list", "--state", "nope"], 2, "there is no state"),
        (["list", "--since", "yesterday"], 2, "two hours ago"),
        (["list", "--server", "unix:/s,192.0.2.1"], 2, "'192.0.2.1' is no server address"),
        (["list", "--tls-cert", "me.crt"], 2, "--tls-key"),
        (["list", "--server", "127.0.0.1:1", "--tls-ca", "missing"], 2, "--tls-ca missing"),
        (["list", "--token-file", "none"], 2, "no token file"),
        (["list", "--server", "unix:/nowhere.sock"], 7, "longshored"),
        (["push", "motd", "web/x", "--patience", "0", "--server", "unix:/nowhere.sock"], 7, "longshored"),
        (["list", "--token-file", "motd"], 8, "does not let us in"),
        (["list", "--data-dir", "empty"], 8, "no token"),
        (["settle", "no-such-task", "landed"], 6, "NOT_FOUND"),
        (["submit", "thumbnail", "--json", "[1]"], 2, "object"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_errors_have_a_code_and_a_remedy(cli: CommandLine, arguments: list[str], code: int, said: str) -> None:
    (cli.folder / "motd").write_text("hello")
    done = cli.run(*arguments)
    assert (done.code, done.out) == (code, "")
    assert said in " ".join(done.err.replace("│", " ").split())
    assert "Traceback" not in done.err


def test_arguments_are_checked_before_a_server_is_asked(cli: CommandLine) -> None:
    """There is none at this address."""
    nowhere = ["--server", "unix:/nowhere.sock", "--patience", "0"]
    for wrong in (["push", "motd", "web/a/../b"], ["push", "motd", "web/x", "--queue", "A"], ["submit", "a b"]):
        assert cli.run(*wrong, *nowhere).code == 2
    assert cli.run("push", "motd", "web/x", *nowhere).code == 7


def test_refusals_of_the_server_name_the_options_of_the_command(cli: CommandLine) -> None:
    done = cli.run("submit", "file_push")
    assert (done.code, "KIND: 'file_push' is built in" in done.err) == (6, True)


def test_errors_as_json(cli: CommandLine) -> None:
    done = cli.run("push", "motd", "web/x", "--queue", "Große", "--output", "json")
    assert (done.code, done.out) == (2, "")
    error = json.loads(done.err)["error"]
    assert (error["exit_code"], error["reason"]) == (2, "USAGE")
    assert "--queue" in error["message"]
    unknown = cli.run("list", "--no-such-option", "-o", "json")
    assert (unknown.code, json.loads(unknown.err)["error"]["reason"]) == (2, "USAGE")
    refused = json.loads(cli.run("submit", "file_push", "--output=json").err)["error"]
    assert (refused["exit_code"], refused["field_violations"][0]["field"]) == (6, "spec.job.kind")
    source = json.loads(cli.run("push", "missing", "web/x", "-o", "json").err)["error"]
    assert (source["exit_code"], source["reason"]) == (2, "SOURCE_UNREADABLE")


@pytest.mark.cluster("P4")
def test_a_request_id_makes_tasks_once(cli: CommandLine, instance: str) -> None:
    arguments = ["push", "motd", f"{instance}/etc/motd", "--request-id", f"once-{instance}", "-o", "id"]
    first, second = cli.run(*arguments), cli.run(*arguments)
    assert first.code == second.code == 0
    assert first.out == second.out
    reused = cli.run("push", "motd", f"{instance}/etc/other", "--request-id", f"once-{instance}")
    assert (reused.code, "REQUEST_ID_REUSED" in reused.err) == (6, True)


def test_a_digest_is_checked(cli: CommandLine, stage: Stage, instance: str) -> None:
    right = hashlib.sha256(b"hello\n").hexdigest()
    wrong = cli.run("push", "motd", f"{instance}/etc/motd", "--sha256", "00" * 32)
    assert (wrong.code, "SHA256_MISMATCH" in wrong.err) == (6, True)
    for value in (right, "compute"):
        [task_id] = cli.run("push", "motd", f"{instance}/etc/motd", "--sha256", value, "-o", "id").lines
        assert stage.client.get(task_id).payload.sha256.hex() == right


def test_options_of_the_task_reach_the_server(cli: CommandLine, stage: Stage, instance: str) -> None:
    arguments = ["--queue", "slow", "--priority", "7", "--label", "app=shop", "--label", "tier=1", "--not-before", "1h"]
    arguments += ["--expire-after", "2h", "--run-timeout", "5m", "--stall-timeout", "1m", "--attempts", "3"]
    arguments += ["--description", "the daily shop"]
    arguments += ["--uid", "0", "--gid", "12", "--read-back", "--when-stopped", "fail", "--when-absent", "wait"]
    [task_id] = cli.run("push", "motd", f"{instance}/etc/motd", *arguments, "-o", "id").lines
    task = stage.client.get(task_id)
    assert (task.queue, task.priority, dict(task.labels)) == ("slow", 7, {"app": "shop", "tier": "1"})
    assert (task.run_timeout.seconds, task.stall_timeout.seconds, task.attempt_limit) == (300, 60, 3)
    assert task.description == "the daily shop"
    assert 7190 <= task.expire_time.seconds - task.create_time.seconds <= 7210
    push = task.file_push
    assert (push.uid, push.gid, push.HasField("uid"), push.read_back) == (0, 12, True, True)
    assert (push.when_stopped, push.when_absent) == (3, 2)
    assert cli.run("cancel", task_id).code == 0


def test_every_task_printed_was_made(cli: CommandLine, instance: str) -> None:
    made = ids(cli.json("push", "motd", "--to", f"{instance}/etc/a", "--to", f"{instance}/etc/b"))
    assert ids(cli.json("list", "--instance", instance)) == made[::-1]


# Sources that are no plain files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["path", "redirected", "piped", "device"])
def test_a_wrong_size_is_refused(cli: CommandLine, instance: str, root: Path, how: str) -> None:
    source = Path("/proc/version")
    expected = source.read_bytes()
    with source.open("rb") as file:
        given = {"path": str(source), "device": "/dev/stdin"}.get(how, "-")
        piped: Any = {"input": expected} if how in {"piped", "device"} else {"stdin": file}
        done: Any = subprocess.run(
            [*COMMAND, "push", given, f"{instance}/etc/version", "--wait"],
            env=cli.environment,
            capture_output=True,
            timeout=60,
            **piped,
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert expected
    assert (root / "etc/version").read_bytes() == expected


def test_a_non_blocking_pipe_arrives_whole(cli: CommandLine, instance: str, root: Path) -> None:
    near, far = os.pipe()
    os.set_blocking(near, False)
    os.write(far, b"first ")
    with cli.start("push", "-", f"{instance}/etc/in", "--wait", stdin=near) as pushing:
        os.close(near)
        # Started, and waiting for more: the first bytes are gone from the pipe.
        eventually(lambda: not _unread(far), within=30, what="the first bytes are read")
        os.write(far, b"and the rest.")
        os.close(far)
        out, err = pushing.communicate(timeout=60)
    assert (pushing.returncode, err) == (0, b""), out
    assert (root / "etc/in").read_bytes() == b"first and the rest."


def _unread(descriptor: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]


def test_a_name_that_is_not_utf_8(cli: CommandLine, instance: str, root: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (cli.folder / name).write_text("coffee")
    done = cli.run("push", name, f"{instance}/etc/")
    assert (done.code, done.out) == (2, "")
    assert r"caf\xe9 is not UTF-8" in done.err
    assert f"--to {instance}/etc/NAME" in done.err
    assert cli.run("push", name, "--to", f"{instance}/etc/cafe", "--wait").code == 0
    assert (root / "etc/cafe").read_text() == "coffee"
    missing = cli.run("push", os.fsdecode(b"th\xe9"), f"{instance}/etc/the")
    assert (missing.code, r"cannot read th\xe9: No such file" in missing.err) == (2, True)
    assert "Traceback" not in done.err + missing.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["list", "--label", "a=\udce9"], "--label"),
        (["get", "\udce9"], "TASK"),
        (["cancel", "x", "--reason", "\udce9"], "--reason"),
        (["push", "motd", "web/etc/\udce9"], "the destination"),
        (["push", "motd", "--to", "web/etc/\udce9"], "--to"),
        (["submit", "k", "--json", '{"a": "\udce9"}'], "--json"),
    ],
)
def test_no_other_argument_may_be_anything_but_utf_8(cli: CommandLine, arguments: list[str], named: str) -> None:
    done = cli.run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert named in done.err
    assert r"\xe9" in done.err
    assert "not UTF-8" in done.err
    assert "Traceback" not in done.err


def test_a_file_that_changes_meanwhile(cli: CommandLine, instance: str, root: Path) -> None:
    """A log that grows all the time: refused as it is, and sent as of now."""
    log = cli.folder / "log"
    log.write_bytes(b"x" * 1_000_000)
    over = threading.Event()

    def write() -> None:
        with log.open("ab", buffering=0) as file:
            while not over.is_set() and file.tell() < 1 << 30:
                file.write(b"line\n")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        refused = cli.run("push", "log", f"{instance}/etc/log")
        # On a busy machine a copy may be done before the log grows again.
        copied = eventually(lambda: (done := cli.run("push", "log", f"{instance}/etc/log", "--snapshot")).code and done)
        sent = cli.run("push", "log", f"{instance}/etc/log", "--as-of-now", "--wait")
    finally:
        over.set()
        writer.join()
    assert (refused.code, refused.out) == (2, "")
    assert "log changed while" in refused.err
    assert "--snapshot" in refused.err
    assert "--as-of-now" in refused.err
    assert (copied.code, "--as-of-now" in copied.err) == (2, True)
    assert (sent.code, sent.err) == (0, "")
    arrived = (root / "etc/log").read_bytes()
    assert len(arrived) >= 1_000_000
    assert log.read_bytes().startswith(arrived)
    # Once it rests a copy of it can be made.
    assert cli.run("push", "log", f"{instance}/etc/log", "--snapshot", "--wait").code == 0
    assert (root / "etc/log").read_bytes() == log.read_bytes()
    both = cli.run("push", "log", f"{instance}/etc/log", "--snapshot", "--as-of-now")
    assert (both.code, "give one" in both.err) == (2, True)


@pytest.mark.parametrize("mode", [0o755, 0o600, 0o4711])
def test_a_new_file_gets_the_mode_of_its_source(cli: CommandLine, instance: str, root: Path, mode: int) -> None:
    script, there = cli.folder / "script", root / "etc/script"
    script.write_text("#!/bin/sh\n")
    script.chmod(mode)
    assert cli.run("push", "script", f"{instance}/etc/", "--wait").code == 0
    assert there.stat().st_mode & 0o7777 == mode & 0o777
    [task] = cli.json("list", "--instance", instance)
    assert task["file_push"]["mode_if_new"] == mode & 0o777
    assert f"mode {mode & 0o777:04o} if new" in cli.run("get", task["id"]).out
    # A file that is replaced keeps its own mode, as with lxc file push.
    there.chmod(0o640)
    assert cli.run("push", "script", f"{instance}/etc/", "--wait").code == 0
    assert there.stat().st_mode & 0o7777 == 0o640
    assert cli.run("push", "script", f"{instance}/etc/", "--wait", "--mode", "source").code == 0
    assert there.stat().st_mode & 0o7777 == mode & 0o777
    assert cli.run("push", "script", f"{instance}/etc/", "--wait", "--mode", "604").code == 0
    assert there.stat().st_mode & 0o7777 == 0o604


def test_standard_input_has_no_mode(cli: CommandLine, instance: str, root: Path) -> None:
    assert cli.run("push", "-", f"{instance}/etc/in", "--wait", stdin=b"x").code == 0
    assert (root / "etc/in").stat().st_mode & 0o7777 == 0o644
    done = cli.run("push", "-", f"{instance}/etc/in", "--mode", "source")
    assert (done.code, "standard input has no mode" in done.err) == (2, True)


def test_several_destinations_are_a_matter_of_to(cli: CommandLine) -> None:
    done = cli.run("push", "motd", "web/etc/motd", "east:db/etc/motd")
    assert (done.code, done.out) == (2, "")
    assert "longshore push motd --to web/etc/motd --to east:db/etc/motd" in done.err
    (cli.folder / "other").write_text("x")
    both = cli.run("push", "motd", "other", "web/etc/motd")
    assert (both.code, "web/etc/motd/ with a slash" in both.err) == (2, True)


def test_an_instance_that_no_worker_takes_is_refused_at_once(cli: CommandLine) -> None:
    for name in ("-web", "web-", ".web"):
        done = cli.run("push", "motd", "--to", f"{name}/etc/motd")
        assert (done.code, done.out) == (2, "")
        assert repr(name) in done.err
        assert "no '-'" in done.err
