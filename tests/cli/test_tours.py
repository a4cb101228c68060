"""These tests type the commands of README and docs/tutorial.md, which must print what the pages say."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages import Reader, same, steps


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder with a short path: a unix socket's has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="tour-", dir="/tmp") as place:
        yield Path(place)


@pytest.fixture
def home(folder: Path) -> Iterator[Reader]:
    """A reader whose server listens on a socket of its own instead of the port that the page names."""
    socket = f"unix:{folder / 'socket'}"
    reader = Reader(
        folder,
        {
            "LONGSHORE_DATA_DIR": str(folder / ".local/share/longshore"),
            "LONGSHORE_LISTEN": socket,
            "LONGSHORE_SERVER": socket,
        },
    )
    yield reader
    reader.close()


@pytest.fixture
def newcomer(folder: Path) -> Iterator[Reader]:
    """A reader with no setting of Longshore."""
    reader = Reader(folder, {})
    yield reader
    reader.close()


@pytest.mark.timeout(300)
def test_the_readme_shows_the_real_output(tree: Path, home: Reader) -> None:
    assert home.follow((tree / "README.md").read_text()) >= 8


@pytest.mark.timeout(300)
def test_the_tutorial_shows_the_real_output(tree: Path, newcomer: Reader) -> None:
    assert newcomer.follow((tree / "docs/tutorial.md").read_text()) >= 15


def test_a_page_that_differs_from_the_output_is_reported(newcomer: Reader) -> None:
    with pytest.raises(AssertionError, match=r"-three\n\+two"):
        newcomer.follow("```console\n$ echo one\none\n$ echo two\nthree\n```\n")
    assert same(["0000000001W34BBF8S2G8YX5X7  succeeded  web"]) != same(["0000000001W34BBF8S2G8YX5X7  failed  web"])
    assert [step.command for step in steps("```console\n$ a \\\n> b\nc\n```\n")] == ["a \\\nb"]
