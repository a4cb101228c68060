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
        pytest.param("client/longshore/program", r"grpc|google|sqlalchemy|longshore\.(v1|client)", id="program"),
        # Only servers and workers have structlog, and the module that sends it somewhere.
        pytest.param(
            "client/longshore/client",
            r"sqlalchemy|structlog|pylxd|longshore\.(server|worker|program\.logs)",
            id="client",
        ),
    ],
)
def test_imports_point_downward(tree: Path, package: str, forbidden: str) -> None:
    pattern = re.compile(rf"({forbidden})(\.|$)")
    files = [name for name in tracked(tree) if name.startswith(f"{package}/") and name.endswith(".py")]
    assert files, f"{package} has no modules: mend this test's table"
    wrong = {name: sorted(m for m in imports(tree / name) if pattern.match(m)) for name in files}
    assert {name: modules for name, modules in wrong.items() if modules} == {}


# Names that two of server, worker and client have for the same noun of the contract, each with the reason.
SHARED_CLASS_NAMES = {
    "Attempt": "the server's record of a run, and the run itself in the worker",
    "DeliveryMethod": "an enumeration of the contract",
    "LongshoreError": "the root of each error tree",
    "NotFound": "the same error, raised by the server and by the client",
    "Outbox": "the messages of the worker's stream that wait to be sent, on either side",
    "Settlement": "an enumeration of the contract",
    "Source": "where bytes come from: of an upload in the client, of a delivery in the worker",
    "Submission": "what a caller submits",
    "Token": "a caller's token",
    "Unauthenticated": "the same error, raised by the server and by the client",
    "WaitReason": "an enumeration of the contract",
    "Watch": "a subscription: to a task in the client, to a target's instances in the worker",
}


def classes(tree: Path, package: str) -> dict[str, list[str]]:
    """The modules of a package that define each class, by the class's name."""
    found: dict[str, list[str]] = {}
    for name in tracked(tree):
        if name.startswith(f"{package}/") and name.endswith(".py"):
            for node in ast.walk(ast.parse((tree / name).read_text(), filename=name)):
                if isinstance(node, ast.ClassDef):
                    found.setdefault(node.name, []).append(name)
    return found


@pytest.mark.parametrize("package", ["protos", "server", "worker", "client", "tests/support"])
def test_one_class_a_name(tree: Path, package: str) -> None:
    found = classes(tree, package)
    assert found, f"{package} has no classes: mend this test's list"
    assert {name: where for name, where in found.items() if len(where) > 1} == {}


def test_parts_share_the_names_of_shared_nouns_only(tree: Path) -> None:
    parts = [classes(tree, package) for package in ("protos", "server", "worker", "client")]
    names = [name for part in parts for name in part]
    assert {name for name in names if names.count(name) > 1} == set(SHARED_CLASS_NAMES)


# What a built-in kind of task is made of, in the server: its class, how it is checked, shown, stored and fingerprinted.
KINDS = {
    "model/task.py",
    "edge/messages/validate.py",
    "edge/messages/translate.py",
    "store/tables/codec.py",
    "engine/submissions.py",
}


def test_few_files_of_the_server_know_the_kinds_of_tasks(tree: Path) -> None:
    """All others ask the work itself, so that a further built-in kind touches none of them."""
    root = "server/longshore/server/"
    kind = re.compile(r"\b(FilePush|FILE_PUSH|Job)\b")
    files = [name for name in tracked(tree) if name.startswith(root) and name.endswith(".py")]
    assert {name.removeprefix(root) for name in files if kind.search((tree / name).read_text())} == KINDS
