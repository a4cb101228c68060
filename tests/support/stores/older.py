"""The code of the version before: the last one with the schema before this one's, from the history of git."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from longshore.server.store.tables.schema_version import OURS
from tests.support.parts import require

_TREE: Final = Path(__file__).resolve().parents[3]
_SCHEMA: Final = "server/longshore/server/store/tables/schema.py"
_PARTS: Final = ("protos", "server", "worker", "client")


def checked_out(folder: Path) -> dict[str, str]:
    """Unpack the version before into this folder; answers with the environment of a Python process that runs it."""
    if _git("rev-parse", "--is-shallow-repository").strip() == "true":
        _git("fetch", "--quiet", "--unshallow")
    commit = _git("log", "-1", "--format=%H", "-S", f'REVISION: Final = "{OURS:04}"', "--", _SCHEMA).strip()
    before = _git("rev-parse", "--verify", "--quiet", f"{commit}~1").strip() if commit else ""
    require(before, "the history of git, back to the schema before (a clone that is not shallow)")
    packed = folder / "before.tar"
    _git("archive", f"--output={packed}", before, *_PARTS, "hatch_build.py")
    subprocess.run(["tar", "-xf", packed], cwd=folder, check=True)
    subprocess.run([sys.executable, "hatch_build.py"], cwd=folder, check=True, capture_output=True)
    return {"PYTHONPATH": os.pathsep.join(str(folder / part) for part in _PARTS)}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=_TREE, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""
