"""Runs the console blocks of a page as a reader types them, in one shell, and compares what is printed.

A line that begins with `$ ` is a command, lines that begin with `> ` continue it, and the lines up to the next command
are its output. A Python block whose first line is `# NAME.py` is a file of that name. A command that begins with
`longshored` and has no `&` has a terminal of its own: it goes on, and its lines must stand in its log at the end. Ids,
times, versions and places differ between runs and are compared as words (`ID`, `TIME`).
"""

from __future__ import annotations

import difflib
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.children import leashed
from tests.support.servers.processes import eventually

WITHIN: Final = 60.0
"""Seconds in which a command must end on a busy machine."""
_END: Final = "that-was-it"
_READY: Final = {"longshored": "listening on", "longshore-worker": "session_welcome"}
"""A person types slower than these start."""
_BLOCK: Final = re.compile(r"^```(python|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LEFT_OUT: Final = r"\[\d+\]|bash: line \d+: +\d+ (Killed|Terminated)|waiting [\d.ms]+: "
_MASKS: Final = (
    (r"\b0000[0-9A-Z]{22}\b", "ID"),
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UUID"),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\+00:00)?", "TIME"),
    (r"\b\d\d:\d\d:\d\d\b", "TIME"),
    (r"\b\d+m\d+s|\b\d+h\d+m|\b\d+(\.\d+)? ?(ms|s|m|h)\b", "TIME"),
    (r"\b\d+\.\d+\.\d+\b", "VERSION"),
    (r"listening on \S+; data in [^;]+;", "listening on ADDRESS; data in FOLDER;"),
    (r"pid \d+", "pid PID"),
    (r" by [\w.-]+, ", " by WORKER, "),
    # A file of some bytes may be on its way before the answer is made.
    (r"\b(queued|running)  ", "accepted  "),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One command and what it prints, or one file and what it has."""

    command: str = ""
    output: tuple[str, ...] = ()
    file: str = ""
    content: str = ""

    @property
    def stays(self) -> bool:
        """Return whether the command has a terminal of its own."""
        return self.command.startswith("longshored") and "&" not in self.command

    @property
    def background(self) -> tuple[str, str] | None:
        """The log of a program that goes on behind the shell, and the word in it that says the program is ready."""
        found = re.match(r"(longshored|longshore-worker) [^&]*> (\S+) 2>&1 &", self.command)
        return (found[2], _READY[found[1]]) if found is not None else None


def steps(page: str) -> Iterator[Step]:
    """The steps of a page in the order of the page."""
    for language, text in _BLOCK.findall(page):
        if language == "python":
            named = re.match(r"# (\w+\.py)\n", text)
            if named is not None:
                yield Step(file=named[1], content=text)
        else:
            yield from _commands(text)


def _commands(text: str) -> Iterator[Step]:
    assert text.startswith("$ "), f"a console block begins with a command: {text!r}"
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        first, *rest = part.rstrip("\n").split("\n")
        command = [first]
        while rest and rest[0].startswith("> "):
            command.append(rest.pop(0)[2:])
        yield Step(command="\n".join(command), output=tuple(line for line in rest if line))


def same(lines: Iterable[str]) -> list[str]:
    """The lines as they are compared: masked, the tasks of one answer in order.

    Left out is what the shell says about its jobs, and what a command says on the way that waits longer than 2 seconds.
    """
    compared: list[str] = []
    tasks: list[str] = []
    for line in lines:
        masked = _masked(line)
        if not masked or re.match(_LEFT_OUT, line):
            continue
        if masked.startswith("ID "):
            tasks.append(masked)
            continue
        compared += [*sorted(tasks), masked]
        tasks.clear()
    return compared + sorted(tasks)


def _masked(line: str) -> str:
    for pattern, word in _MASKS:
        line = re.sub(pattern, word, line)
    return re.sub(r" +", " ", line).strip()


class Reader:
    """A person with a shell in an empty folder, who types what the page says."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith("LONGSHORE_") and name != "CI"}
        programs = os.pathsep.join([str(Path(sys.executable).parent), own.get("PATH", os.defpath)])
        self._folder = folder
        self._environment = own | {
            "PATH": programs,
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "TERM": "dumb",
            "COLUMNS": "160",
            "LONGSHORE_LOG_FORMAT": "text",
            "LONGSHORE_WORKER_LOG_FORMAT": "text",
        }
        self._environment |= environment
        self._terminals: list[tuple[Step, Path, subprocess.Popen[bytes]]] = []
        self._shell = leashed(
            subprocess.Popen(
                ["bash", "--norc"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=self._environment,
            )
        )

    def follow(self, page: str) -> int:
        """Do every step; answers how many commands were typed. Raises AssertionError at the first difference."""
        typed = 0
        for step in steps(page):
            if step.file:
                (self._folder / step.file).write_text(step.content)
            elif step.stays:
                self._open(step)
                typed += 1
            else:
                self._compare(step, self._type(step.command))
                if step.background is not None:
                    name, word = step.background
                    self._await(self._folder / name, word)
                typed += 1
        for step, log, process in self._terminals:
            process.terminate()
            assert process.wait(WITHIN) == 0, log.read_text()
            printed = iter(same(log.read_text().splitlines()))
            missing = [line for line in same(step.output) if line not in printed]
            assert not missing, f"$ {step.command}\nnever printed {missing}; it printed\n{log.read_text()}"
        return typed

    def close(self) -> None:
        """End the shell and what it has started, whatever has happened."""
        for _, _, process in self._terminals:
            process.kill()
            process.wait()
        if self._shell.poll() is None:
            assert self._shell.stdin is not None
            self._shell.stdin.write(b"kill $(jobs -p) 2>/dev/null; wait; exit\n")
            self._shell.stdin.close()
            self._shell.wait(WITHIN)

    def _open(self, step: Step) -> None:
        log = self._folder / f"terminal{len(self._terminals)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                step.command.split(), stdout=out, stderr=out, cwd=self._folder, env=self._environment
            )
        self._terminals.append((step, log, leashed(process)))
        ready = same(step.output)[0]
        eventually(lambda: ready in same(log.read_text().splitlines()), what=f"{step.command}: {ready}")

    def _type(self, command: str) -> list[str]:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{command}\nprintf '\\n%s\\n' {_END}\n".encode())
        self._shell.stdin.flush()
        printed, until = b"", time.monotonic() + WITHIN
        while not printed.endswith(f"\n{_END}\n".encode()):
            ready, _, _ = select.select([self._shell.stdout], [], [], max(0.0, until - time.monotonic()))
            piece = os.read(self._shell.stdout.fileno(), 65536) if ready else b""
            assert piece, f"$ {command}\nhas not ended in {WITHIN:.0f} s; it printed\n{printed.decode()}"
            printed += piece
        return printed.decode().splitlines()[:-1]

    def _await(self, log: Path, word: str) -> None:
        # The shell makes the file a moment after it has taken the command.
        eventually(lambda: log.exists() and word in log.read_text(), what=f"{word} in {log.name}")

    @staticmethod
    def _compare(step: Step, printed: list[str]) -> None:
        told, seen = same(step.output), same(printed)
        difference = "\n".join(difflib.unified_diff(told, seen, "the page", "the program", lineterm=""))
        assert told == seen, f"$ {step.command}\n{difference}\n\nas printed:\n" + "\n".join(printed)
