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
