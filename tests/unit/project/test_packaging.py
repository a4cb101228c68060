"""One wheel, built from what git tracks and nothing else, holds the whole of Longshore and no more."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

PARTS = ("v1", "contract", "server", "worker", "client", "program")


def hatchling(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the build backend as it is installed here, without a network and without an isolated environment."""
    command = [sys.executable, "-m", "hatchling", "build", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def copy_tree(files: Iterable[Path], source: Path, to: Path) -> Path:
    for name in files:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, to / name)
    return to


def sources(tree: Path) -> list[Path]:
    """Return the files that a clone would hold: tracked, or new and not ignored, and still there."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.split("\0") if name and (tree / name).is_file()]


@pytest.fixture(scope="module")
def clone(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources: no generated module is in it."""
    return copy_tree(sources(tree), tree, tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as an index would: clone → sdist → unpacked sdist → wheel."""
    out = tmp_path_factory.mktemp("dist")
    made = hatchling(clone, "-t", "sdist", "-d", str(out))
    assert made.returncode == 0, made.stderr
    (sdist,) = out.glob("longshore-*.tar.gz")
    unpacked = tmp_path_factory.mktemp("sdist")
    # tar, because tarfile's `filter` is missing from the 3.11.2 of Debian 12 and missed by 3.12 when left out.
    subprocess.run(["tar", "-xzf", str(sdist), "-C", str(unpacked)], check=True)
    (root,) = unpacked.iterdir()
    made = hatchling(root, "-t", "wheel", "-d", str(out))
    assert made.returncode == 0, made.stderr
    (built,) = out.glob("longshore-*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(to)
    return to


def test_wheel_puts_one_name_into_site_packages(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"longshore"}
    assert {name.split("/")[1] for name in names if name.startswith("longshore/")} == set(PARTS)


def test_namespace_has_no_init(names: set[str]) -> None:
    assert "longshore/__init__.py" not in names


@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_marked_as_typed(names: set[str], part: str) -> None:
    assert f"longshore/{part}/py.typed" in names


def test_every_proto_has_its_generated_modules(names: set[str]) -> None:
    protos = {name.removesuffix(".proto") for name in names if name.endswith(".proto")}
    assert {"longshore/v1/task_service", "longshore/v1/worker_service", "longshore/v1/admin_service"} <= protos
    missing = {
        stem + ending
        for stem in protos
        for ending in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
        if stem + ending not in names
    }
    assert not missing


def test_every_source_module_is_in_the_wheel(names: set[str], clone: Path) -> None:
    roots = [clone / part / "longshore" for part in ("server", "worker", "client", "protos")]
    wanted = {
        path.relative_to(root.parent).as_posix()
        for root in roots
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= names


def test_commands_lead_to_functions_in_the_wheel(wheel: Path, names: set[str], unpacked: Path) -> None:
    (entry_points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string((unpacked / entry_points).read_text())
    commands = dict(parser["console_scripts"])
    assert set(commands) == {"longshored", "longshore-worker", "longshore"}
    for target in commands.values():
        module, function = target.split(":")
        done = isolated(unpacked, f"import {module} as m; assert callable(m.{function})")
        assert done.returncode == 0, done.stderr


def test_client_needs_nothing_of_server_or_worker(unpacked: Path) -> None:
    heavy = ("sqlalchemy", "alembic", "structlog", "uvloop", "pylxd", "longshore.server", "longshore.worker")
    code = "import longshore.client.cli, sys; print(*(m for m in sys.argv[1:] if m in sys.modules))"
    done = isolated(unpacked, code, *heavy)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_version_of_the_wheel_is_the_changelogs_newest(wheel: Path, tree: Path) -> None:
    newest = re.search(r"^## \[(\d[^]]*)\]", (tree / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert wheel.name.split("-")[1] == newest[1]


def test_build_fails_with_the_words_of_the_compiler(tree: Path, clone: Path, tmp_path: Path) -> None:
    broken = copy_tree(sources(tree), tree, tmp_path / "broken")
    (broken / "protos/longshore/v1/broken.proto").write_text('syntax = "proto3";\nmessage {\n')
    made = hatchling(broken, "-t", "wheel", "-d", str(tmp_path / "out"))
    assert made.returncode != 0
    assert "broken.proto:2:9: Expected message name." in made.stderr
    assert not list((tmp_path / "out").glob("*.whl"))


def test_modules_of_a_removed_proto_go_with_it(tree: Path, tmp_path: Path) -> None:
    copy = copy_tree(sources(tree), tree, tmp_path / "copy")
    extra = copy / "protos/longshore/v1/extra.proto"
    extra.write_text('syntax = "proto3";\npackage longshore.v1;\nmessage Extra {}\n')
    generate = [sys.executable, str(copy / "hatch_build.py")]
    subprocess.run(generate, check=True, capture_output=True, timeout=60)
    assert extra.with_name("extra_pb2.py").exists()
    extra.unlink()
    subprocess.run(generate, check=True, capture_output=True, timeout=60)
    assert not list(extra.parent.glob("extra*"))


def isolated(unpacked: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `code` against the unpacked wheel; -S leaves out the .pth file by which the editable install would answer."""
    start = f"import sys; sys.path[:0] = [{str(unpacked)!r}]; sys.path.append({sysconfig.get_path('purelib')!r}); "
    command = [sys.executable, "-I", "-S", "-c", start + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
