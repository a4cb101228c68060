"""P14 and the lock: one server on a data directory, and a token that only its owner reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from longshore.server.data.datadir import DataDir, DataDirError, DataDirInUse


def test_the_token_is_made_once_and_private(tmp_path: Path) -> None:
    with DataDir(tmp_path / "data") as data:
        token = data.token()
        assert len(token) >= 40
        assert data.token_file.stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    with DataDir(tmp_path / "data") as data:
        assert data.token() == token


def test_an_empty_token_file_is_no_open_door(tmp_path: Path) -> None:
    with DataDir(tmp_path) as data:
        data.token_file.write_text("\n")
        with pytest.raises(DataDirError, match="empty"):
            data.token()


def test_the_data_directory_names_the_server_that_had_it_before(tmp_path: Path) -> None:
    with DataDir(tmp_path) as data:
        assert data.succeed("0123456789abcdef") == ""
        assert data.succeed("fedcba9876543210") == "0123456789abcdef"
        (tmp_path / "server").write_bytes(b"\xff\n")
        assert data.succeed("0123456789abcdef") == ""


def test_a_second_server_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    hold = (
        "import sys\nfrom pathlib import Path\nfrom longshore.server.data.datadir import DataDir\n"
        "with DataDir(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdin is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(DataDirInUse, match=f"pid {first.pid}") as refused, DataDir(tmp_path):
            pass
        assert refused.value.pid == first.pid
        first.kill()
    # The lock is the kernel's: a killed server leaves none behind.
    with DataDir(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_path_that_is_no_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirError, match="--data-dir"), DataDir(tmp_path / "file" / "data"):
        pass
