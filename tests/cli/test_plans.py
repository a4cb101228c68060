"""Tasks that come after others, as people use them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.v1 import task_pb2
from tests.support.commandline import CommandLine
from tests.support.servers.stage import Stage


def test_a_push_after_another(cli: CommandLine, stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "motd"
    file.write_text("hello\n")
    [gate] = cli.run("submit", "nobody-runs-this", "--output", "id").lines
    [later] = cli.json("push", str(file), "web/etc/motd", "--after", gate[:13], "--after", gate)
    assert (later["after"], later["wait_reason"], later["blocked_by"]) == ([gate], "WAIT_REASON_AFTER", gate)
    [anyhow] = cli.json("submit", "nobody", "--after", gate, "--after-any-end")
    assert anyhow["after_any_end"]
    assert f"behind {gate}" in cli.run("get", later["id"]).out
    cli.run("cancel", gate)
    ended = cli.run("get", later["id"]).out
    assert "cancelled" in ended
    assert "(DEPENDENCY_FAILED)" in ended
    assert "met before" not in ended
    stage.reaches(anyhow["id"], task_pb2.TASK_STATE_QUEUED)
    refused = cli.run("push", str(file), "web/etc/motd", "--after", gate)
    assert refused.code == 6
    assert "DEPENDENCY_FAILED" in refused.err
    wrong = cli.run("push", str(file), "web/etc/motd", "--after-any-end")
    assert wrong.code == 2


def test_a_batch_has_one_verdict_and_is_cancelled_as_one(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "motd").write_text("hello\n")
    cli.run("push", "motd", "--to", "web/etc/a", "--to", "web/etc/b", "--not-before", "1h", "--request-id", "release-7")
    shown = cli.run("batch", "release-7")
    assert (shown.code, shown.out) == (0, "running: 2 tasks: 2 scheduled\n")
    assert cli.run("batch", "release-7", "--reason", "no").code == 2
    [found] = cli.json("batch", "release-7", "--cancel", "--reason", "wrong release")
    assert (found["verdict"], found["done"], found["total"]) == ("BATCH_VERDICT_CANCELLED", True, 2)
    assert found["states"] == {"CANCELLED": 2}
    assert [task["cancel_reason"] for task in found["failures"]] == ["wrong release"] * 2
    ended = cli.run("batch", "release-7")
    assert ended.code == 4
    assert ended.out.startswith("cancelled: 2 tasks: 2 cancelled\n")
    unknown = cli.run("batch", "release-8")
    assert unknown.code == 6
    assert "release-8" in unknown.err
    assert cli.run("batch", "release-7", "--creator", "nobody").code == 6


PLAN = re.search(r"```toml\n(.*?)```", (Path(__file__).parents[2] / "docs" / "plans.md").read_text(), re.DOTALL)
HANDLERS = """
from pathlib import Path

from longshore.worker import PermanentError, Registry

registry = Registry()


@registry.handler("reload")
def reload(context):
    if not Path("ROOT/etc/app.conf").exists() or not Path("ROOT/srv/www/index.html").exists():
        raise PermanentError("TOO_EARLY", "the files are not there")


@registry.handler("report")
def report(context):
    pass


@registry.handler("fail")
def fail(context):
    raise PermanentError("ON_PURPOSE", "as asked")
"""


@pytest.fixture
def handlers(stage: Stage, tmp_path: Path) -> Iterator[None]:
    """A worker that has these kinds."""
    root = str(stage.instances / "web")
    (tmp_path / "plans_of_the_test.py").write_text(HANDLERS.replace("ROOT", root))
    with stage.worker(
        "--handlers", "plans_of_the_test:registry", name="plans", environment={"PYTHONPATH": str(tmp_path)}
    ):
        yield


@pytest.mark.usefixtures("handlers")
def test_the_plan_of_the_page_runs(cli: CommandLine, stage: Stage, tmp_path: Path) -> None:
    assert PLAN is not None
    (tmp_path / "release.toml").write_text(PLAN[1])
    (tmp_path / "app.conf").write_text("debug = no\n")
    (tmp_path / "index.html").write_bytes(b"x" * 100_000)
    tried = cli.run("run", "release.toml", "--dry-run")
    assert (tried.code, tried.out, tried.err) == (0, "", "4 steps would be accepted\n")
    assert cli.run("batch", "release-42").code == 6, "nothing was made"
    done = cli.run("run", "release.toml", "--request-id", "release-42", "--wait", "--output", "json")
    assert done.code == 0, done
    assert [task["state"] for task in done.objects] == ["TASK_STATE_SUCCEEDED"] * 4
    assert (stage.instances / "web" / "etc" / "app.conf").read_text() == "debug = no\n"
    assert (stage.instances / "web" / "srv" / "www" / "index.html").stat().st_size == 100_000
    again = cli.run("run", "release.toml", "--request-id", "release-42", "--output", "id")
    assert sorted(again.lines) == sorted(task["id"] for task in done.objects), "no task is made twice"
    assert cli.run("batch", "release-42").out == "succeeded: 4 tasks: 4 succeeded\n"


@pytest.mark.usefixtures("handlers")
def test_a_step_that_fails_cancels_those_after_it_and_no_others(cli: CommandLine, stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "motd").write_text("hello\n")
    (tmp_path / "bad.toml").write_text(
        """
        [[step]]
        name = "broken"
        job = "fail"

        [[step]]
        name = "hangs"
        push = "motd"
        to = "web/etc/hangs"
        after = ["broken"]

        [[step]]
        push = "motd"
        to = "web/etc/other"
        """
    )
    done = cli.run("run", "bad.toml", "--request-id", "bad-1", "--wait")
    assert done.code == 3
    assert (stage.instances / "web" / "etc" / "other").read_text() == "hello\n"
    assert not (stage.instances / "web" / "etc" / "hangs").exists()
    found = cli.run("batch", "bad-1")
    assert found.code == 3
    assert found.lines[0] == "failed: 3 tasks: 1 succeeded, 1 failed, 1 cancelled"
    assert "ON_PURPOSE" in found.lines[1]


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("[[step]]\njob = 'a'\ncolour = 'red'", "step 1 of bad.toml: there is no 'colour' here"),
        ("[[step]]\njob = 'a'\nafter = ['b']", "after: no earlier step has the name 'b'"),
        ("[[step]]\nname = 'x'\njob = 'a'\npriority = 'high'", "step 1 (x) of bad.toml: priority is no whole number"),
        ("[[step]]\npush = 'motd'", "`to` is missing"),
        ("[[step]]\njob = 'a'\npush = 'motd'\nto = 'web/etc/x'", "give either `push` (a file) or `job` (a kind)"),
        ("[[step]]\nname = 'x'\njob = 'a'\n[[step]]\nname = 'x'\njob = 'a'", "an earlier step has the same name"),
        ("step = 3", "has tables [[step]] and nothing else"),
        ("[[step]", "is not TOML"),
        ("[[step]]\npush = 'missing'\nto = 'web/etc/x'", "No such file"),
        ("[[step]]\npush = '/dev/null'\nto = 'web/etc/x'", "/dev/null is no regular file"),
        ("[[step]]\njob = 'a'\naccess = 'sole'", "access is 'sole'"),
        (f"[[step]]\njob = 'a'\narguments = {{ a = {'[' * 5000}{']' * 5000} }}", "is not TOML"),
    ],
)
def test_a_plan_that_is_wrong_is_refused_before_anything_is_sent(
    cli: CommandLine, tmp_path: Path, plan: str, said: str
) -> None:
    (tmp_path / "bad.toml").write_text(plan)
    done = cli.run("run", "bad.toml")
    assert done.code == 2, done
    assert said in " ".join(done.err.split())
