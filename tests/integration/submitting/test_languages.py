"""The client for Node in docs/examples does what docs/languages.md says: over TLS, with a token, through a cut."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from longshore.server.model.access import Role
from tests.support.network.proxy import FaultProxy
from tests.support.parts import require, require_program
from tests.support.servers.certificates import Authority, replace
from tests.support.servers.processes import eventually
from tests.support.servers.stage import Stage, staged
from tests.support.servers.tokens import token_of

TREE = Path(__file__).parents[3]
EXAMPLE = TREE / "docs/examples/node"
SIZE = 24 << 20
WITHIN = 60.0


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """deliver.mjs beside the packages that its lock file names."""
    node, npm = require_program("node", "nodejs"), require_program("npm", "npm")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    require(int(version.lstrip("v").split(".")[0]) >= 18, f"node 18 or newer, here is {version.strip()}")
    folder = tmp_path_factory.mktemp("node") / "node"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    argv = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=110, check=False)
    require(done.returncode == 0, f"the packages of {EXAMPLE.name} from npm: {done.stderr[-300:]}")
    return folder / "deliver.mjs"


@dataclass
class Node:
    """Runs the program as one caller."""

    program: Path
    environment: dict[str, str]

    async def run(self, *arguments: str, **more: str) -> tuple[int | None, list[str], str]:
        """Return the exit code, the lines, and the text on standard error."""
        process = await asyncio.create_subprocess_exec(
            "node",
            str(self.program),
            *arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | self.environment | more,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), WITHIN)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return process.returncode, out.decode().splitlines(), err.decode()


@dataclass
class World:
    stage: Stage
    proxy: FaultProxy
    node: Node


@pytest.fixture
async def world(tmp_path: Path, program: Path) -> AsyncIterator[World]:
    authority = Authority()
    replace(tmp_path / "ca.crt", authority.certificate)
    cert, key = authority.server("localhost").write(tmp_path, "server")
    options = ("--listen", "127.0.0.1:0", "--tls-cert", str(cert), "--tls-key", str(key))
    with staged(tmp_path / "s", *options) as stage:
        *_, serving = stage.server.events("serving")
        host, port = next(one for one in serving["addresses"] if not one.startswith("unix:")).rsplit(":", 1)
        async with FaultProxy(upstream=(host, int(port))) as proxy:
            environment = {
                # By name: Node warns of certificates for addresses.
                "LONGSHORE_SERVER": f"localhost:{proxy.port}",
                "LONGSHORE_TOKEN": token_of(stage.server, "node", Role.SUBMIT),
                "LONGSHORE_TLS_CA": str(tmp_path / "ca.crt"),
                "LONGSHORE_PROTOS": str(TREE / "protos"),
            }
            yield World(stage, proxy, Node(program, environment))


def states(lines: list[str]) -> list[str]:
    return [line.split()[2] for line in lines]


async def test_a_cut_upload_goes_on_and_its_task_is_followed(world: World, tmp_path: Path) -> None:
    content = os.urandom(SIZE)
    (tmp_path / "big").write_bytes(content)
    push = ("push", str(tmp_path / "big"), "web/etc/big", "node-1")
    with world.stage.worker():
        world.proxy.cut_after(SIZE // 2)
        code, lines, err = await world.node.run(*push)
        assert (code, err) == (0, "")
        assert states(lines)[-1] == "TASK_STATE_SUCCEEDED"
        revisions = [int(line.split()[1]) for line in lines]
        assert revisions == list(range(revisions[0], revisions[-1] + 1))
        assert (world.stage.instances / "web/etc/big").read_bytes() == content
        assert world.proxy.connections >= 2, "it was cut"
        assert world.proxy.sent_up < SIZE * 1.5, "what was durable is not sent again"
        # The same request: the same task, and no byte.
        sent = world.proxy.sent_up
        assert (await world.node.run(*push))[1] == lines[-1:]
        assert world.proxy.sent_up - sent < 100_000
    later = (await world.node.run("watch", lines[0].split()[0], "1"))[1]
    assert [int(line.split()[1]) for line in later] == list(range(2, revisions[-1] + 1))


async def test_a_watch_is_resumed_and_a_task_cancelled(world: World, tmp_path: Path) -> None:
    (tmp_path / "motd").write_text("hello\n")
    pushing = asyncio.create_task(world.node.run("push", str(tmp_path / "motd"), "web/etc/motd", "node-2"))
    [task] = await asyncio.to_thread(eventually, lambda: list(world.stage.client.list()), what="the task")
    world.proxy.cut()
    code, lines, _ = await world.node.run("cancel", task.id)
    assert (code, states(lines)) == (0, ["TASK_STATE_CANCELLED"])
    code, lines, err = await pushing
    assert (code, err) == (3, "")
    assert states(lines)[-1] == "TASK_STATE_CANCELLED"


async def test_errors_have_their_reason(world: World, tmp_path: Path) -> None:
    code, _, err = await world.node.run("get", "0" * 26)
    assert (code, err.startswith("NOT_FOUND: There is no task")) == (1, True)
    (tmp_path / "motd").write_text("hello\n")
    code, _, err = await world.node.run("push", str(tmp_path / "motd"), "web/etc/../motd")
    assert (code, err.startswith("INVALID_FIELD: header.spec.file_push.pushes[0].destination.path")) == (1, True)
    code, _, err = await world.node.run("get", "0" * 26, LONGSHORE_TOKEN="wrong")
    assert (code, err.startswith("UNAUTHENTICATED: ")) == (1, True)


def test_the_lock_file_names_no_registry() -> None:
    text = (EXAMPLE / "package-lock.json").read_text()
    assert '"resolved"' not in text
    assert len(re.findall(r'"integrity"', text)) > 10
