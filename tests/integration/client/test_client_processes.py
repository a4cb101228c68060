"""A client over forks, other ways to start a process, and event loops: it works, or says at once what to do."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from longshore.client import AsyncClient, Client, ConfigurationError, push_spec
from tests.support.servers.stage import Stage, staged

pytestmark = pytest.mark.embedded("the client's side alone")

WITHIN = 30.0
"""Seconds for a child to answer on a busy machine."""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path) as stage:
        yield stage


def own_client(answers: Any, server: str, token_file: Path) -> None:
    """Open a client of its own in a child process, and upload."""
    began = time.monotonic()
    try:
        with Client(server=server, token_file=token_file, timeout=5, patience=0) as client:
            [task] = client.upload(b"from a child", spec=push_spec("web/etc/motd"))
            answers.put(("ok", task.id, time.monotonic() - began))
    except ConfigurationError as error:
        answers.put((error.reason, error.message, time.monotonic() - began))


def answer_of(method: str, stage: Stage) -> tuple[str, str, float]:
    context: Any = multiprocessing.get_context(method)
    answers = context.Queue()
    child = context.Process(target=own_client, args=(answers, stage.server.address, stage.server.token_file))
    child.start()
    try:
        answer: tuple[str, str, float] = answers.get(timeout=WITHIN)
        child.join(WITHIN)
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join()
    return answer


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_with_an_open_client_is_refused_at_once(stage: Stage) -> None:
    assert list(stage.client.list()) == []
    # Without the check one in three of these children ended with a segmentation fault; the others hung.
    for _ in range(5):
        reason, message, seconds = answer_of("fork", stage)
        assert reason == "FORKED"
        assert "spawn" in message
        assert "forkserver" in message
        assert seconds < 2
    # The parent's client works on.
    assert list(stage.client.list()) == []


CLOSED: Final = """
import os, sys
from pathlib import Path
from longshore.client import Client
server = {"server": sys.argv[1], "token_file": Path(sys.argv[2])}
with Client(**server) as client:
    list(client.list())
child = os.fork()
if child == 0:
    with Client(**server, timeout=5, patience=0) as client:
        list(client.list())
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_closed_client_leaves_a_child_free_to_open_one(stage: Stage) -> None:
    # A process of its own: in this one other tests may have left channels open.
    command = [sys.executable, "-c", CLOSED, stage.server.address, str(stage.server.token_file)]
    assert subprocess.run(command, timeout=WITHIN).returncode == 0


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_ways_to_start_a_process_need_nothing(stage: Stage, method: str) -> None:
    assert list(stage.client.list()) == []
    assert answer_of(method, stage)[0] == "ok"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("kind", ["blocking", "asynchronous"])
def test_an_inherited_client_is_refused_and_can_be_closed(stage: Stage, kind: str) -> None:
    other = AsyncClient(server=stage.server.address, token_file=stage.server.token_file)
    assert list(stage.client.list()) == []
    near, far = os.pipe()
    child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            if kind == "blocking":
                stage.client.get("x")
            else:
                asyncio.run(other.get("x"))
        except ConfigurationError as error:
            said = error.reason
        finally:
            stage.client.close()
            os.write(far, said.encode())
            os._exit(0)
    os.close(far)
    with os.fdopen(near, "rb") as answer:
        assert answer.read() == b"FORKED"
    assert os.waitpid(child, 0)[1] == 0


def test_an_asynchronous_client_in_a_second_loop_is_refused(stage: Stage) -> None:
    client = AsyncClient(server=stage.server.address, token_file=stage.server.token_file)

    async def once() -> int:
        return len([task async for task in client.list()])

    async def and_close() -> None:
        await once()
        await client.close()

    with asyncio.Runner() as first, asyncio.Runner() as second:
        assert first.run(once()) == 0
        for use in (once, client.close):
            with pytest.raises(ConfigurationError, match="in each loop") as caught:
                second.run(use())
            assert caught.value.reason == "OTHER_LOOP"
        first.run(and_close())
        # Closing a closed client is nothing, wherever.
        second.run(client.close())


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, -1, 0, True, "30", None, 1e300])
def test_a_time_out_that_is_none_is_refused_by_its_name(kind: Any, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^timeout is "):
        kind(server="127.0.0.1:1", timeout=value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("value", [-math.inf, math.nan, -1, False, "30"])
def test_patience_that_is_none_is_refused_by_its_name(kind: Any, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^patience is "):
        kind(server="127.0.0.1:1", patience=value)


def test_patience_of_one_call_is_checked_too(stage: Stage) -> None:
    for patience in (math.nan, -1, True):
        with pytest.raises(ConfigurationError, match=r"^patience is "):
            stage.client.upload(b"x", spec=push_spec("web/etc/x"), patience=patience)
        with pytest.raises(ConfigurationError, match=r"^patience is "):
            stage.client.watch("x", patience=patience)
    assert list(stage.client.list()) == []
    [task] = stage.client.upload(b"x", spec=push_spec("web/etc/x"), patience=math.inf)
    assert task.id
