"""Tasks that come after others, as people use them."""

from __future__ import annotations

from pathlib import Path

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
