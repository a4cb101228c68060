"""Rules of the tree itself: what must never be committed, and which way imports may point."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$")
# Packages are named, never the hosts that serve them: a mirror has other hosts.
REGISTRY_HOSTS = re.compile(r"pypi\.org|pythonhosted\.org|deb\.debian\.org|archive\.ubuntu\.com|registry\.npmjs", re.I)
HOMES = re.compile(r"(?<![\w.])/(home|Users)/[a-z]\w*/")
STANDARD = "|".join(sorted(sys.stdlib_module_names))
# A test that finds a part missing says so through tests/support, which fails in CI.
SKIPS = re.compile(r"pytest\.(mark\.)?(skip|xfail)|importor" + "skip")


def tracked(tree: Path) -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=tree, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (tree / name).is_file()]


def lines(tree: Path) -> Iterator[tuple[str, str]]:
    """Each line of each text file that git tracks, with where it stands."""
    for name in tracked(tree):
        try:
            text = (tree / name).read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            yield f"{name}:{number}", line


def test_no_generated_module_is_tracked(tree: Path) -> None:
    assert [name for name in tracked(tree) if GENERATED.search(name)] == []


def test_namespace_has_no_init(tree: Path) -> None:
    assert [name for name in tracked(tree) if name.endswith("longshore/__init__.py")] == []


def test_no_path_of_a_machine(tree: Path) -> None:
    here = re.compile(
        "|".join(rf"{re.escape(place)}(?![\w.-])" for place in (str(tree), sys.prefix, str(Path.home()) + "/."))
    )
    assert [where for where, line in lines(tree) if here.search(line) or HOMES.search(line)] == []


def test_no_registry_host(tree: Path) -> None:
    assert [where for where, line in lines(tree) if REGISTRY_HOSTS.search(line)] == []


def test_no_skip_outside_the_support_package(tree: Path) -> None:
    found = [where for where, line in lines(tree) if where.startswith("tests/") and SKIPS.search(line)]
    assert [where for where in found if not where.startswith("tests/support/")] == []


def imports(path: Path) -> set[str]:
    """The modules a file names in its imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        # Server, worker and client import the contract's rules, which need the standard library only.
        pytest.param("protos/longshore/contract", rf"(?!(longshore\.contract|{STANDARD})(\.|$)).*", id="contract"),
        pytest.param(
            "server/longshore/server/model",
            r"grpc|google|sqlalchemy|alembic|longshore\.(v1|worker|client|server\.(?!model)\w+)",
            id="model",
        ),
        pytest.param("server/longshore/server/store", r"grpc|google|longshore\.(v1|worker|client)", id="store"),
        pytest.param(
            "server/longshore/server/spool", r"grpc|google\.(rpc|protobuf)|longshore\.(v1|worker|client)", id="spool"
        ),
        pytest.param("server/longshore/server", r"pylxd|longshore\.client", id="server"),
        pytest.param("worker/longshore/worker", r"sqlalchemy|alembic|longshore\.server", id="worker"),
        pytest.param(
            "client/longshore/program", r"grpc|google|sqlalchemy|structlog|longshore\.(v1|client)", id="program"
        ),
        pytest.param("client/longshore/client", r"sqlalchemy|structlog|pylxd|longshore\.(server|worker)", id="client"),
    ],
)
def test_imports_point_downward(tree: Path, package: str, forbidden: str) -> None:
    pattern = re.compile(rf"({forbidden})(\.|$)")
    files = [name for name in tracked(tree) if name.startswith(f"{package}/") and name.endswith(".py")]
    assert files, f"{package} has no modules: mend this test's table"
    wrong = {name: sorted(m for m in imports(tree / name) if pattern.match(m)) for name in files}
    assert {name: modules for name, modules in wrong.items() if modules} == {}
