"""Looking at tasks and steering them: watch, get, list, attempts, cancel, retry, submit, and what operators use."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.commandline import COMMAND, CommandLine, ids
from tests.support.processes import eventually
from tests.support.stage import Stage

DELIVER = ("push", "submit")
TASKS = ("watch", "get", "list", "attempts", "cancel", "retry")
OPERATE = ("stats", "workers", "drain", "pause", "resume", "settle")
COMMANDS = (*DELIVER, *TASKS, *OPERATE)


def pushed(cli: CommandLine, to: str, *options: str) -> str:
    done = cli.run("push", "motd", to, *options, "-o", "id")
    assert done.code in {0, 3}, done
    return done.lines[0]


@pytest.mark.cluster("P11")
def test_watch_tells_every_revision_once(cli: CommandLine, instance: str) -> None:
    task_id = pushed(cli, f"{instance}/etc/motd", "--wait")
    [last] = cli.json("watch", task_id)
    assert last["state"] == "TASK_STATE_SUCCEEDED"
    later = cli.json("watch", task_id, "--after", "1")
    assert [int(task["revision"]) for task in later] == list(range(2, int(last["revision"]) + 1))
    text = cli.run("watch", task_id, "--after", "1")
    assert len(text.lines) == len(later)
    assert "succeeded" in text.lines[-1]


def test_watch_of_several(cli: CommandLine, instance: str) -> None:
    good = pushed(cli, f"{instance}/etc/motd", "--wait")
    bad = pushed(cli, f"{instance}/none/motd", "--wait")
    done = cli.run("watch", good, bad)
    assert done.code == 3
    assert {line.split()[0] for line in done.lines} == {good, bad}


def test_get(cli: CommandLine, instance: str) -> None:
    task_id = pushed(cli, f"{instance}/etc/motd", "--wait", "--label", "app=shop", "--mode", "640")
    text = cli.run("get", task_id)
    assert text.code == 0
    for part in (task_id, "succeeded", f"{instance}/etc/motd", "app=shop", "mode 0640", "6 B"):
        assert part in text.out
    [task] = cli.json("get", task_id)
    assert (task["id"], task["done"], task["payload"]["size"]) == (task_id, True, "6")


def test_list_filters(cli: CommandLine, instance: str) -> None:
    good = pushed(cli, f"{instance}/etc/motd", "--wait", "--label", "app=shop")
    bad = pushed(cli, f"{instance}/none/motd", "--wait")
    here = ["list", "--instance", instance]
    assert ids(cli.json(*here)) == [bad, good]
    assert ids(cli.json(*here, "--state", "failed")) == [bad]
    assert ids(cli.json(*here, "--state", "done")) == [bad, good]
    assert ids(cli.json(*here, "--state", "live")) == []
    assert ids(cli.json(*here, "--label", "app=shop")) == [good]
    assert ids(cli.json(*here, "--kind", "nothing")) == []
    assert ids(cli.json(*here, "--since", "1h")) == [bad, good]
    assert ids(cli.json(*here, "--until", "1h")) == []
    assert ids(cli.json(*here, "--limit", "1")) == [bad]
    limited = cli.run(*here, "--limit", "1")
    assert len(limited.lines) == 2
    assert "--limit 0" in limited.err
    assert cli.run(*here, "-o", "id").lines == [bad, good]


def test_nothing_to_list(cli: CommandLine) -> None:
    done = cli.run("list", "--instance", "nobody")
    assert (done.code, done.out, done.err.strip()) == (0, "", "no tasks")


def test_lines_in_a_pipe_are_whole_and_plain(cli: CommandLine, instance: str) -> None:
    path = "/etc/" + "x" * 200
    task_id = pushed(cli, f"{instance}{path}", "--wait")
    done = cli.run("list", "--instance", instance)
    assert f"{instance}{path}" in done.out
    assert "\x1b" not in done.out
    assert all(line == line.rstrip() for line in done.lines)
    assert task_id in done.lines[1]


def test_attempts(cli: CommandLine, instance: str) -> None:
    task_id = pushed(cli, f"{instance}/none/motd", "--wait")
    [attempt] = cli.json("attempts", task_id)
    assert (attempt["number"], attempt["outcome"], attempt["error"]["reason"]) == (1, "PERMANENT", "PARENT_MISSING")
    assert "PARENT_MISSING" in cli.run("attempts", task_id).out


def test_retry(cli: CommandLine, instance: str, root: Path) -> None:
    task_id = pushed(cli, f"{instance}/none/motd", "--wait")
    (root / "none").mkdir()
    done = cli.run("retry", task_id, "--wait", "-o", "json")
    assert done.code == 0
    assert done.objects[0]["retry_of"] == task_id
    assert (root / "none/motd").read_text() == "hello\n"
    superseded = cli.run("retry", task_id)
    assert (superseded.code, "SUPERSEDED" in superseded.err) == (6, True)
    assert cli.run("retry", task_id, "--force", "--wait").code == 0


def test_submit_a_job(cli: CommandLine, stage: Stage) -> None:
    [task_id] = cli.run("submit", "thumbnail", "--json", '{"width": 320}', "--not-before", "1h", "-o", "id").lines
    [task] = cli.json("get", task_id)
    assert task["job"]["arguments"] == {
        "@type": "type.googleapis.com/google.protobuf.Struct",
        "value": {"width": 320.0},
    }
    [with_bytes] = cli.run("submit", "thumbnail", "--file", "motd", "--not-before", "1h", "-o", "id").lines
    assert stage.client.get(with_bytes).payload.size == 6
    assert cli.run("cancel", task_id, with_bytes).code == 0


def test_pause_and_resume(cli: CommandLine, stage: Stage, instance: str) -> None:
    assert cli.run("pause", "held", "--create").code == 0
    task_id = pushed(cli, f"{instance}/etc/motd", "--queue", "held")
    [figures] = cli.json("stats")
    [queue] = [each for each in figures["queues"] if each["queue"] == "held"]
    assert queue["paused"] is True
    assert "held (paused)" in cli.run("stats").out
    assert not stage.client.get(task_id).done
    assert cli.run("resume", "held").code == 0
    assert cli.run("watch", task_id).code == 0


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_a_queue_is_named_and_is_there(cli: CommandLine, command: str) -> None:
    unnamed = cli.run(command)
    assert (unnamed.code, "QUEUE" in unnamed.err) == (2, True)
    unknown = cli.run(command, "defualt")
    assert unknown.code == 6
    assert "There is no queue 'defualt'; there are: default" in unknown.err
    assert not any(row["queue"] == "defualt" for row in cli.json("stats")[0]["queues"])


def test_workers_and_drain(cli: CommandLine, stage: Stage) -> None:
    with stage.worker(name="leaving") as leaving:
        eventually(lambda: "leaving" in cli.run("workers").out, what="the second worker")
        names = [worker["name"] for worker in cli.json("workers")]
        assert sorted(names) == ["leaving", "worker"]
        drained = cli.run("drain", "leaving", "-o", "json")
        assert drained.code == 0
        assert drained.objects[0]["draining"] is True
        assert leaving.process.wait(30) == 0
    assert cli.run("drain", "nobody").code == 6


def test_settle_is_for_settling_tasks(cli: CommandLine, instance: str) -> None:
    task_id = pushed(cli, f"{instance}/etc/motd", "--wait")
    done = cli.run("settle", task_id, "landed")
    assert (done.code, "NOT_SETTLING" in done.err) == (6, True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(cli: CommandLine, command: str) -> None:
    done = cli.run(command, "--help")
    assert done.code == 0
    for option in ("--server", "--token-file", "--data-dir", "--output"):
        assert option in done.out


def test_the_command_lists_its_commands(cli: CommandLine) -> None:
    done = cli.run("--help")
    assert done.code == 0
    found = {line.split()[1] for line in done.lines if line.startswith("│ ") and line[2] not in "- "}
    assert found == set(COMMANDS)
    assert cli.run("--version").out.startswith("longshore ")


def test_completion(cli: CommandLine) -> None:
    variables = {"_LONGSHORE_COMPLETE": "complete_bash", "COMP_WORDS": "longshore at", "COMP_CWORD": "1"}
    assert cli.run(environment=variables).lines == ["attempts"]


def test_nobody_reads_any_more(cli: CommandLine, instance: str) -> None:
    pushed(cli, f"{instance}/etc/motd", "--wait")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(
            [*COMMAND, "list", "-o", "json"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            env=cli.environment,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (141, b"")
