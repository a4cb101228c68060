"""A command imports what it uses, and registers only itself."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import typer.main

from longshore.client.cli import MODULES, app_for

_SCRIPT = """
import atexit, json, sys

def tell():
    print(json.dumps([*sys.modules]), file=sys.__stdout__)

atexit.register(tell)
from longshore.client.cli import main
main()
"""
_NEEDLESS = {"pydantic", "rich.progress", "rich.table", "rich.markdown", "http.client", "google.protobuf.json_format"}


def imported(*arguments: str, code: int) -> set[str]:
    argv = [sys.executable, "-c", _SCRIPT, *arguments]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == code, ran
    return set(json.loads(ran.stdout.splitlines()[-1]))


def registered(called: str | None) -> set[str]:
    group: Any = typer.main.get_command(app_for(called))
    return set(group.commands)


@pytest.mark.parametrize("name", [*MODULES])
def test_the_table_of_commands_has_what_its_modules_register(name: str) -> None:
    others = {each for module, those in MODULES.items() if module != name for each in those}
    assert registered(None) - others == set(MODULES[name])
    for each in MODULES[name]:
        assert registered(each) == {each}


def test_a_push_imports_neither_other_commands_nor_what_only_they_use() -> None:
    modules = imported("push", "/dev/null", "box/x", "--server", "127.0.0.1:1", "--patience", "0s", "-o", "id", code=7)
    assert modules & _NEEDLESS == set()
    assert {"longshore.client.cli.commands.tasks", "longshore.client.cli.commands.fleet"} & modules == set()
    # 411 modules with the versions of constraints.txt; 522 when everything was imported.
    assert len(modules) < 440


def test_the_version_needs_no_command() -> None:
    modules = imported("--version", code=0)
    assert modules & _NEEDLESS == set()
    assert not any(each.startswith("longshore.client.cli.commands.") for each in modules)
