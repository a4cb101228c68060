"""A task that cannot run says why: at once, to whoever may see it, and for as long as somebody waits for it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.client import AsyncClient, Client, TaskState, WaitTimedOut, push_spec
from longshore.server.model.access import Role
from tests.support.commandline import WITHIN, CommandLine, plain
from tests.support.servers.processes import eventually
from tests.support.servers.stage import Stage, staged
from tests.support.servers.tokens import token_of

NOBODY = "no worker serves target `web`; did you mean web/etc/motd?"


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[Stage]:
    """A server without a worker."""
    with staged(tmp_path / "s") as stage:
        yield stage


@pytest.fixture
def alone(lonely: Stage, tmp_path: Path) -> CommandLine:
    (tmp_path / "motd").write_text("hello\n")
    return CommandLine(address=lonely.server.address, data_dir=lonely.server.data, folder=tmp_path)


def test_a_task_that_cannot_run_shows_the_reason_at_once_in_every_output(alone: CommandLine, lonely: Stage) -> None:
    with lonely.worker():
        eventually(lonely.client.workers, what="the worker")
        pushed = alone.run("push", "motd", "web:etc/motd")
        assert pushed.code == 0
        task_id, state, where, why = pushed.lines[0].split(maxsplit=3)
        assert (state, where, why) == ("queued", "web:etc/motd", NOBODY)
        assert alone.run("submit", "resize").lines[0].endswith("queued  resize  no worker runs `resize`")
        assert alone.run("pause", "default").code == 0
        assert alone.run("push", "motd", "web/etc/p1").lines[0].endswith("web/etc/p1  queue default is paused")

        assert NOBODY in alone.run("get", task_id).out
        listed = alone.run("list", "--state", "live").out
        assert (NOBODY in listed, "no worker runs `resize`" in listed, "queue default is paused" in listed) == (
            True,
            True,
            True,
        )
        found = {task["wait_reason"]: task["wait_detail"] for task in alone.json("list")}
        assert found == {
            "WAIT_REASON_NO_WORKER": NOBODY,
            "WAIT_REASON_NO_HANDLER": "no worker runs `resize`",
            "WAIT_REASON_QUEUE_PAUSED": "queue default is paused",
        }
        assert NOBODY in alone.run("watch", task_id, "--timeout", "2s").out


def test_submitters_learn_why_their_own_tasks_wait(alone: CommandLine, lonely: Stage) -> None:
    token = {"LONGSHORE_TOKEN": token_of(lonely.server, "team", Role.SUBMIT)}
    assert alone.run("stats", environment=token).code == 8
    assert alone.run("submit", "resize", environment=token).lines[0].endswith("no worker runs `resize`")
    assert "no worker runs `resize`" in alone.run("list", environment=token).out


def test_a_wait_in_a_pipe_tells_each_reason_once(alone: CommandLine, lonely: Stage) -> None:
    waiting = alone.start("push", "motd", "web/etc/p1", "--wait")
    os.set_blocking(waiting.stderr.fileno(), False)  # type: ignore[union-attr]
    said = b""

    def told(what: str) -> bool:
        nonlocal said
        said += waiting.stderr.read() or b""  # type: ignore[union-attr]
        return what in said.decode()

    eventually(lambda: told("no worker serves target `default`"), within=WITHIN)
    lonely.client.pause_queue("default")
    with lonely.worker():
        eventually(lambda: told("queue default is paused"), within=WITHIN)
        lonely.client.resume_queue("default")
        os.set_blocking(waiting.stderr.fileno(), True)  # type: ignore[union-attr]
        out, rest = waiting.communicate(timeout=WITHIN)
    lines = (said + rest).decode().splitlines()
    reasons = [re.sub(r"^waiting [^:]+: ", "", line) for line in lines]
    assert (waiting.returncode, len(set(reasons))) == (0, len(reasons)), lines
    assert b"succeeded" in out


def test_a_wait_on_a_terminal_keeps_one_current_line(alone: CommandLine) -> None:
    shown = alone.on_terminal("push", "motd", "web/etc/p1", "--wait", "--timeout", "6s", stdout=False)
    said = plain(shown.err)
    counted = sorted(set(re.findall(r"waiting (\d+)s: no worker serves target `default`", said)))
    assert len(counted) >= 2, said
    assert shown.err.count("\n") < 10, "rewritten in place"
    assert shown.code == 124


def test_a_wait_that_times_out_leaves_the_task_and_prints_its_id(alone: CommandLine, lonely: Stage) -> None:
    assert alone.run("push", "motd", "web/etc/p1", "--timeout", "1s").code == 2
    done = alone.run("push", "motd", "web/etc/p1", "--wait", "--timeout", "1s")
    assert done.code == 124
    task_id = done.lines[0].split()[0]
    assert "queued  web/etc/p1  no worker serves target `default`" in done.out
    assert f"longshore watch {task_id}" in done.err
    assert lonely.client.get(task_id).state == TaskState.TASK_STATE_QUEUED

    watched = alone.run("watch", task_id, "--timeout", "1s", "--output", "json")
    assert (watched.code, watched.objects[0]["id"]) == (124, task_id)
    assert '"reason": "WAIT_TIMED_OUT"' in watched.err
    submitted = alone.run("submit", "resize", "--wait", "--timeout", "0s", "--output", "id")
    assert (submitted.code, len(submitted.lines[0])) == (124, 26)
    lonely.client.cancel(task_id)
    again = alone.run("retry", task_id, "--wait", "--timeout", "1s")
    assert (again.code, "goes on" in again.err) == (124, True)


def test_the_blocking_client_waits_no_longer_than_told(lonely: Stage) -> None:
    task_id = lonely.push(b"x", "web/etc/p1")
    with pytest.raises(WaitTimedOut, match=r"is queued after 0\.2 s, and goes on: no worker serves") as raised:
        lonely.client.wait(task_id, timeout=0.2)
    assert raised.value.reason == "WAIT_TIMED_OUT"
    assert raised.value.task is not None
    assert raised.value.task.id == task_id
    with lonely.worker():
        assert lonely.client.wait(task_id, timeout=WITHIN).done


async def test_the_asynchronous_client_waits_no_longer_than_told(tmp_path: Path) -> None:
    with staged(tmp_path / "s") as stage:
        async with AsyncClient(server=stage.server.address, token_file=stage.server.token_file) as client:
            [task] = await client.upload(b"x", spec=push_spec("web/etc/p1"))
            with pytest.raises(WaitTimedOut):
                await client.wait(task.id, timeout=0.0)
            assert not (await client.get(task.id)).done


def test_ended_sessions_stay_in_stats_and_workers_with_time_and_cause(alone: CommandLine, lonely: Stage) -> None:
    client: Client = lonely.client
    with lonely.worker(name="w1") as left:
        eventually(client.workers, what="the worker")
        left.terminate()
    eventually(lambda: not client.workers(), what="its goodbye")
    with lonely.worker(name="w2", targets=["east=directory:" + str(lonely.instances)]) as lost:
        eventually(client.workers, what="the worker")
        lost.kill()
        eventually(lambda: not client.workers(), what="the end of its lease")
    rows = {row.target: row for row in client.stats().targets}
    assert {name: (row.last_worker, row.problem) for name, row in rows.items()} == {
        "default": ("w1", "no worker serves this target"),
        "east": ("w2", "no worker serves this target"),
    }
    assert all(row.last_served.seconds and row.problem_since == row.last_served for row in rows.values())
    assert re.search(r"east .*no worker serves this target: last seen w2, [\d.]+m?s ago", alone.run("stats").out)
    everybody = alone.run("workers", "--all").out
    assert re.search(r"w1 +left \S+ ago", everybody)
    assert re.search(r"w2 +lost \S+ ago", everybody)
    eventually(lambda: '"session_lost"' in lonely.server.log(), what="the record of the loss")
    [record] = [line for line in lonely.server.log().splitlines() if '"session_lost"' in line]
    assert '"worker": "w2"' in record or '"worker":"w2"' in record
    pushed = alone.run("push", "motd", "east:web/etc/motd").lines[0]
    assert re.search(r"no worker serves target `east`: the last one ended \S+ ago$", pushed)
