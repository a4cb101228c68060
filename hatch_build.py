"""Generate the protobuf and gRPC modules beside their `.proto` files.

Hatchling calls the hook for every wheel and every editable install, so a fresh clone, an sdist and a wheel all get the
same modules and none is ever committed. Run as a program (`python hatch_build.py`, which is `make protos`) it does the
same for the tree it lies in.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from os import environ, pathsep
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")


class GenerationError(RuntimeError):
    """The modules could not be generated. The message carries what protoc said."""


def generate(root: Path) -> list[Path]:
    """Generate the modules of every `.proto` below `root`, a folder that is also the import root.

    Only files whose content changed are replaced, each at once, so a program that imports them meanwhile never sees
    half a module. Generated modules whose `.proto` is gone are removed. Returns the files replaced.

    Raises:
        GenerationError: no `.proto` there, a missing plugin, or protoc refused.
    """
    sources = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.proto"))
    if not sources:
        raise GenerationError(f"no .proto files under {root}: the tree is incomplete")
    # Beside the target: a rename within one file system is atomic.
    with tempfile.TemporaryDirectory(prefix=".generated-", dir=root) as scratch:
        _run_protoc(root, Path(scratch), sources)
        return _replace_changed(Path(scratch), root)


def _run_protoc(root: Path, out: Path, sources: list[str]) -> None:
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        *(f"--plugin={name}={_plugin(name)}" for name in PLUGINS),
        f"-I{root}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet,only_async:{out}",
        *sources,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GenerationError(f"protoc failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}")


def _plugin(name: str) -> str:
    # pip does not put an environment's scripts on PATH when the environment is not activated.
    places = [environ.get("PATH", ""), sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    found = shutil.which(name, path=pathsep.join(places))
    if found is None:
        raise GenerationError(f"{name} not found: install mypy-protobuf into the environment of {sys.executable}")
    return found


def _replace_changed(fresh: Path, root: Path) -> list[Path]:
    wanted = {path.relative_to(fresh) for pattern in GENERATED for path in fresh.rglob(pattern)}
    present = {
        path.relative_to(root)
        for pattern in GENERATED
        for path in root.rglob(pattern)
        if not path.is_relative_to(fresh)
    }
    replaced = []
    for name in sorted(wanted):
        target = root / name
        if not target.exists() or target.read_bytes() != (fresh / name).read_bytes():
            (fresh / name).replace(target)
            replaced.append(target)
    for name in sorted(present - wanted):
        (root / name).unlink()
    return replaced


class ProtoBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # generic in a type hatchling does not export
    """The hook runs before hatchling collects the files of a wheel or of an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate, and tell hatchling to ship what git ignores."""
        generate(Path(self.root, "protos"))
        build_data["artifacts"] += GENERATED


if __name__ == "__main__":
    try:
        changed = generate(Path(__file__).resolve().parent / "protos")
    except GenerationError as error:
        sys.exit(str(error))
    if changed:
        print(f"protos: {len(changed)} generated modules replaced")
