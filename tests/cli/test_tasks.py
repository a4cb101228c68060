"""Looking at tasks and steering them: watch, get, list, attempts, cancel, retry, submit, and what operators use."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from longshore.client.values.specs import job_spec
from longshore.server.model.access import Role
from tests.support.commandline import COMMAND, CommandLine, CommandResult, ids
from tests.support.servers.processes import eventually
from tests.support.servers.stage import Stage
from tests.support.servers.tokens import token_admin_of, token_of

DELIVER = ("push", "submit", "run")
TASKS = ("watch", "get", "list", "attempts", "cancel", "retry", "batch")
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


def test_a_list_for_programs_is_whole(cli: CommandLine, stage: Stage) -> None:
    """60 tasks, `list -o id | xargs cancel`: 50 were cancelled, 10 left, and the exit code was 0."""
    spec = job_spec("nobody-runs-this", labels={"release": "42"})
    made = {task.id for _ in range(60) for task in stage.client.submit(spec=spec)}
    live = ["list", "--label", "release=42", "--state", "live"]
    assert set(cli.run(*live, "-o", "id").lines) == made
    assert set(ids(cli.json(*live))) == made
    assert len(cli.run(*live).lines) == 61
    screen = cli.on_terminal(*live)
    assert "there are more than 50; --limit 0 lists them all" in screen.err
    listed = cli.run(*live, "-o", "id")
    done = cli.run("cancel", "-", "-o", "id", "--require", stdin=listed.out.encode())
    assert (done.code, set(done.lines)) == (0, made)
    assert cli.run(*live, "-o", "id").lines == []
    again = cli.run("retry", "-", "-o", "id", stdin=listed.out.encode())
    assert (again.code, len(again.lines)) == (0, 60)
    assert cli.run("cancel", *again.lines).code == 0


@pytest.mark.parametrize("command", ["cancel", "retry"])
def test_no_ids_are_no_failure(cli: CommandLine, command: str) -> None:
    done = cli.run(command, "-")
    assert (done.code, done.out, done.err) == (0, "", f"no ids: nothing to {command}\n")
    under_xargs = subprocess.run(
        ["xargs", *COMMAND, command], input=b"", capture_output=True, env=cli.environment, check=False, timeout=60
    )
    assert (under_xargs.returncode, under_xargs.stderr) == (0, f"no ids: nothing to {command}\n".encode())
    # Where ids could have been typed, none are a mistake.
    forgotten = cli.run(command)
    assert (forgotten.code, "give some, or `-`" in forgotten.err) == (2, True)


def test_a_refused_id_stops_no_other_id(cli: CommandLine, stage: Stage) -> None:
    one, other = (stage.client.submit(spec=job_spec("nobody-runs-this"))[0].id for _ in range(2))
    done = cli.run("cancel", one, "0" * 26, other, "-o", "id")
    assert (done.code, done.lines) == (6, [one, other])
    assert "NOT_FOUND" in done.err
    as_json = cli.run("retry", one, "0" * 26, other, "-o", "json")
    assert (as_json.code, [task["retry_of"] for task in as_json.objects]) == (6, [one, other])
    assert [json.loads(line)["error"]["reason"] for line in as_json.err.splitlines()] == ["NOT_FOUND"]
    assert cli.run("cancel", *ids(as_json.objects)).code == 0


def test_cancel_of_a_finished_task_says_so(cli: CommandLine, instance: str) -> None:
    task_id = pushed(cli, f"{instance}/etc/motd", "--wait")
    done = cli.run("cancel", task_id)
    assert (done.code, "had already finished, nothing was cancelled" in done.out) == (0, True)
    assert cli.run("cancel", task_id, "--require").code == 6
    waiting = pushed(cli, f"{instance}/etc/motd", "--not-before", "1h")
    for _ in range(2):
        assert cli.run("cancel", waiting, "--require").code == 0


def test_ids_may_be_typed_short(cli: CommandLine, stage: Stage) -> None:
    one, other = (stage.client.submit(spec=job_spec("nobody-runs-this"))[0].id for _ in range(2))
    short = one.lstrip("0")[:12]
    for text in (short, short.lower(), one[:22], one.lower()):
        assert ids(cli.json("get", text)) == [one]
    assert cli.json("attempts", short) == []
    shared = one[: next(n for n in range(26) if one[n] != other[n])]
    for ambiguous in (shared, "0"):
        done = cli.run("cancel", ambiguous)
        assert (done.code, done.out) == (2, "")
        assert "stands for several tasks: give more of the id" in done.err
    assert f"{other}  queued  nobody-runs-this" in cli.run("cancel", shared).err
    for command in ("get", "cancel", "retry"):  # a variable that is not set, while there is one task only
        done = cli.run(command, "")
        assert (done.code, done.out, "an id is empty" in done.err) == (2, "", True)
    unknown = cli.run("get", "ZZZZ")
    assert (unknown.code, "begins with 'ZZZZ' (NOT_FOUND)" in unknown.err) == (6, True)
    assert ids(cli.json("cancel", short, other)) == [one, other]
    assert cli.run("watch", short).code == 4


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


def test_a_description_is_shown_and_kept(cli: CommandLine, instance: str) -> None:
    why = "the daily\n[bold]shop[/]"
    made = [
        *cli.run("submit", "nothing", "--description", why, "--label", f"here={instance}", "-o", "id").lines,
        pushed(cli, f"{instance}/etc/motd", "--description", why, "--not-before", "1h", "--label", f"here={instance}"),
    ]
    listed = {task["id"]: task["description"] for task in cli.json("list", "--label", f"here={instance}")}
    assert listed == dict.fromkeys(made, why)
    for task_id in made:
        assert "[bold]shop[/]" in cli.run("get", task_id).out
    assert cli.run("cancel", *made).code == 0
    [again] = cli.json("retry", made[1])
    assert (again["description"], again["retry_of"]) == (why, made[1])
    assert cli.run("cancel", again["id"]).code == 0
    refused = cli.run("submit", "nothing", "--description", "x" * 501)
    assert (refused.code, "--description" in refused.err, "at most 500" in refused.err) == (2, True, True)


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


def offered(cli: CommandLine, *words: str, **environment: str) -> list[str]:
    """Return the words that bash offers for the last word."""
    line = {"_LONGSHORE_COMPLETE": "complete_bash", "COMP_WORDS": shlex.join(words), "COMP_CWORD": str(len(words) - 1)}
    if not words[-1]:
        line["COMP_WORDS"] = shlex.join(words[:-1]) + " "
    done = cli.run(environment=line | environment)
    assert done.err == ""
    return [line for line in done.lines if line]


def test_names_are_completed(cli: CommandLine, stage: Stage, instance: str) -> None:
    task_id = pushed(cli, f"{instance}/etc/motd", "--queue", "nightly", "--wait")
    # A queue whose tasks are done is in no figure, and another queue is.
    assert cli.run("pause", "held", "--create").code == 0
    assert offered(cli, "longshore", "list", "--state", "s") == ["scheduled", "settling", "succeeded"]
    assert "nightly" in offered(cli, "longshore", "list", "--queue", "")
    assert offered(cli, "longshore", "pause", "nigh") == ["nightly"]
    assert offered(cli, "longshore", "list", "--target", "def") == ["default"]
    assert offered(cli, "longshore", "list", "--kind", "file_p") == ["file_push"]
    assert offered(cli, "longshore", "drain", "wor") == ["worker"]
    assert instance in offered(cli, "longshore", "list", "--instance", "")
    assert offered(cli, "longshore", "get", task_id[:20]) == [task_id]
    short = task_id.lstrip("0")
    assert offered(cli, "longshore", "cancel", short[:14]) == [short]
    assert f"{instance}/" in offered(cli, "longshore", "push", "motd", instance[:8])
    assert offered(cli, "longshore", "push", "mot") == ["motd"]
    token = token_of(stage.server, "a-team", Role.SUBMIT)
    assert offered(cli, "longshore", "pause", "nigh", LONGSHORE_TOKEN=token) == [], (
        "it may see neither figures nor tasks"
    )


def test_no_completion_without_a_server(cli: CommandLine) -> None:
    for words in (["pause", "d"], ["get", "0"], ["list", "--instance", "w"]):
        assert offered(cli, "longshore", *words, LONGSHORE_SERVER="unix:/nowhere.sock") == []


@pytest.mark.parametrize(
    ("program", "words", "offer"),
    [
        ("longshored", "longshored token re", "revoke"),
        ("longshore-worker", "longshore-worker --targ", "--target"),
    ],
)
def test_the_other_programs_are_completed_too(cli: CommandLine, program: str, words: str, offer: str) -> None:
    found = shutil.which(program, path=str(Path(sys.executable).parent))
    assert found is not None
    variable = f"_{program.upper().replace('-', '_')}_COMPLETE"
    environment = dict(cli.environment) | {
        variable: "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1),
    }  # fmt: skip
    done = subprocess.run([found], capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.stdout.split() == [offer]


def test_a_command_ends_quietly_when_its_output_is_closed(cli: CommandLine, instance: str) -> None:
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


def test_a_revoked_token_is_reported_in_the_servers_words(cli: CommandLine, stage: Stage) -> None:
    token = token_of(stage.server, "leaver", Role.SUBMIT)
    mine = {"LONGSHORE_TOKEN": token}
    assert cli.run("list", environment=mine).code == 0
    assert len(token_admin_of(stage.server).revoke("leaver").now) == 1

    def refused() -> CommandResult | None:
        done = cli.run("list", environment=mine)
        return done if done.code == 8 else None

    err = eventually(refused, what="the refusal").err
    assert re.search(r"The token [0-9a-f]{16} is revoked since \d{4}-\d\d-\d\d \d\d:\d\d UTC; ask for a new one", err)
    assert "data directory" not in err
