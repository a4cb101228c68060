"""The reference pages say what the code says."""

from __future__ import annotations

import re
from itertools import zip_longest
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer.main
from google.rpc import error_details_pb2, status_pb2

from longshore.client.errors import LongshoreError, from_status
from longshore.client.servers.patience import may_pass
from longshore.server import main as longshored
from longshore.server.edge.status import code_of
from longshore.server.model import errors
from longshore.server.model.states import failures
from longshore.server.model.values import State, WaitReason
from longshore.worker import main as longshore_worker
from longshore.worker.errors import Reason
from scripts.push_picture import picture

DOCS = Path(__file__).parents[3] / "docs"


def _rows(page: str) -> dict[str, str]:
    """First to second column of every table row that begins with an upper-case word."""
    return dict(re.findall(r"^\| ([A-Z0-9_]+) \| ([^|]+) \|", (DOCS / page).read_text(), re.MULTILINE))


def _leaves(base: type[errors.LongshoreError]) -> list[type[errors.LongshoreError]]:
    subs = base.__subclasses__()
    own = [base] if "reason" in vars(base) and base is not errors.LongshoreError else []
    return own + [leaf for sub in subs for leaf in _leaves(sub)]


@pytest.mark.parametrize("error", _leaves(errors.LongshoreError), ids=lambda error: error.reason)
def test_every_reason_of_an_rpc_stands_in_the_reference_with_its_status(error: type[errors.LongshoreError]) -> None:
    made = error.__new__(error)
    assert _rows("errors.md").get(error.reason) == code_of(made).name


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_of_a_task_stands_in_the_reference(reason: Reason) -> None:
    assert reason.value in _rows("errors.md")


def test_the_page_for_other_languages_repeats_the_same_errors_as_the_python_client() -> None:
    page = (DOCS / "languages.md").read_text()
    rows = re.findall(r"^\| ([A-Z_, ]+) \| ([^|]+) \| (yes|no)\b", page, re.MULTILINE)
    assert len(rows) >= 7
    for statuses, reasons, answer in rows:
        for code in (grpc.StatusCode[name.strip()] for name in statuses.split(",")):
            known = re.findall(r"[A-Z]+_[A-Z_]+", reasons) or (["SOMETHING_ELSE"] if "any" in reasons else [])
            for reason in [*known, *([""] if "none" in reasons else [])]:
                assert may_pass(error_of(code, reason)) is (answer == "yes"), (code, reason)


def error_of(code: grpc.StatusCode, reason: str) -> LongshoreError:
    """As a call ends with it; without a reason it comes from the connection."""
    status = status_pb2.Status(code=code.value[0], message="x")
    if reason:
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="longshore"))
    return from_status(status)


def test_the_state_table_and_its_page_name_the_same_states() -> None:
    page = (DOCS / "states.md").read_text()
    assert {state.name for state in State} == set(_rows("states.md"))
    for failure in (failures.CRASHED_TOO_OFTEN, failures.UNKNOWN_OUTCOME):
        assert failure.reason in page


def test_every_reason_to_wait_stands_on_the_page_of_the_states() -> None:
    page = (DOCS / "states.md").read_text()
    assert [reason.name for reason in WaitReason if reason and reason.name not in page] == []


def test_the_readme_names_tests_that_are_there() -> None:
    tests = DOCS.parent / "tests"
    named = re.findall(
        r"`((?:unit|conformance|integration|faults|cli)/[\w.]*)`", (DOCS.parent / "README.md").read_text()
    )
    assert named
    assert [name for name in named if not (tests / name).exists()] == []


ROOMS = {
    "server/": "server/longshore/server/",
    "worker/": "worker/longshore/worker/",
    "client/": "client/longshore/client/",
    "program/": "client/longshore/program/",
    "v1/": "protos/longshore/v1/",
    "contract/": "protos/longshore/contract/",
}
"""The short paths of docs/architecture.md."""


def test_every_file_that_the_architecture_names_is_there() -> None:
    page = (DOCS / "architecture.md").read_text()
    for short, room in ROOMS.items():
        assert f"`{short}`" in page
        assert f"`{room}`" in page
    named = set(re.findall(r"`([\w./-]+/(?:[\w.-]+\.(?:py|proto|md))?)`", page)) - {*ROOMS, *ROOMS.values()}
    assert len([name for name in named if name.endswith((".py", ".proto"))]) > 60
    rooms = re.compile("|".join(f"^{re.escape(name)}" for name in ROOMS))
    found = {name: DOCS.parent / rooms.sub(lambda match: ROOMS[match[0]], name) for name in named}
    assert [name for name, path in found.items() if not path.exists()] == []


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_a_first_page_is_read_in_one_sitting(page: str) -> None:
    assert len((DOCS.parent / page).read_text().splitlines()) <= 200


@pytest.mark.parametrize(
    ("heading", "program"), [("## Settings\n", longshored._app), ("### Settings of a worker\n", longshore_worker.app)]
)
def test_the_settings_of_a_program_stand_in_its_table_with_their_defaults(heading: str, program: typer.Typer) -> None:
    section = (DOCS / "operations.md").read_text().partition(f"\n{heading}")[2].partition("\n#")[0]
    listed: dict[str, str] = {}
    for names, default in re.findall(r"^\| (`--[^|]*) \| ([^|]*) \|", section, re.MULTILINE):
        named = re.findall(r"`(--[\w-]+)`", names)
        listed |= dict(zip_longest(named, default.split(", ")[: len(named)], fillvalue=""))
    options: list[Any] = typer.main.get_command(program).params
    shown = {max(one.opts, key=len): one.default for one in options if not one.hidden}
    for name in ("--config", "--version", "--install-completion", "--show-completion"):  # they are no settings
        shown.pop(name, None)
    assert listed.keys() == shown.keys()
    plain = {name: str(value) for name, value in shown.items() if value and value is not True and listed[name]}
    assert len(plain) >= 5
    assert {name: listed[name] for name in plain} == plain


def test_every_heading_that_a_page_links_to_is_there() -> None:
    """Links to headings of our own pages, from README and from every page of docs."""
    broken = []
    for page in (DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))):
        if "node_modules" in page.parts:
            continue
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
            path, _, heading = target.partition("#")
            other = (page.parent / path) if path else page
            if not other.exists() or (heading and heading not in _headings(other)):
                broken.append(f"{page.name}: {target}")
    assert broken == []


def _headings(page: Path) -> set[str]:
    """As a forge names them in links."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_picture_of_a_push_is_as_its_script_draws_it() -> None:
    assert (DOCS / "push.svg").read_text() == picture()
