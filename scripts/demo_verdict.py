"""The verdict says whether the cluster's demo kept each promise.

It reads the facts themselves: the database, the disk, the object store and the exit codes.
"""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from longshore.v1 import task_pb2
from scripts.demo_load import Load
from tests.support.servers.cluster import ServerFleet
from tests.support.servers.processes import Process, temps_under

EMPTY_WITHIN: Final = 20.0
"""Seconds for the janitors to empty the spool."""
STOP_WITHIN: Final = 30.0


_WORDS: Final = {True: "kept", False: "BROKEN", None: "not exercised"}
_MARKS: Final = {True: "[green]✔", False: "[bold red]✘", None: "[dim]not exercised"}


@dataclass(frozen=True, slots=True)
class Line:
    """One promise."""

    promise: str
    kept: bool | None
    """The demo kept the promise, or broke it. None means that nothing happened that could have broken it."""
    found: str


@dataclass(slots=True)
class Account:
    """The account gathers what happened while the servers still answer."""

    files: int
    load: Load
    took: float = 0.0
    killed: list[str] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    def say(self, promise: str, found: str, *, kept: bool | None) -> None:
        self.lines.append(Line(promise, kept, found))

    # While the fleet is there ---------------------------------------------------------------------------------------

    def look(self, fleet: ServerFleet) -> None:
        """Look at tasks, attempts, files, sessions and the spool."""
        self._tasks()
        self._attempts(fleet)
        self._files(fleet)
        self._watches()
        self._sessions(fleet)
        self._leftovers(fleet)

    def _tasks(self) -> None:
        done = [each for each in self.load.deliveries if each.task.state == task_pb2.TASK_STATE_SUCCEEDED]
        accepted = len(self.load.deliveries)
        self.say(
            "accepted means durable",
            f"{accepted} of {self.files} uploads accepted, {len(done)} tasks succeeded",
            kept=len(done) == accepted == self.files,
        )

    def _attempts(self, fleet: ServerFleet) -> None:
        endings = Counter(dict(fleet.rows("SELECT coalesce(ending, 'running'), count(*) FROM attempts GROUP BY 1")))
        told = ", ".join(f"{count} {ending}" for ending, count in endings.most_common())
        self.say("every attempt is accounted for", f"{endings.total()}: {told}", kept=not endings["running"])
        lost = fleet.rows("SELECT DISTINCT worker FROM attempts WHERE ending IN ('LOST', 'TIMED_OUT')")
        losers = sorted(row[0] for row in lost)
        self.say(
            "only the dead lose attempts",
            f"lost by {', '.join(losers)}" if losers else "none was lost: nothing ran at the dead worker just then",
            kept=set(losers) <= set(self.killed) if losers else None,
        )
        ((renamed, granted),) = fleet.rows(
            "SELECT count(*), count(granted_at) FROM attempts WHERE ending = 'OK' AND NOT settling"
        )
        self.say("no rename without a grant", f"{renamed} renames, {granted} grants", kept=renamed == granted)

    def _files(self, fleet: ServerFleet) -> None:
        last = self.load.last_versions()
        wrong = [path for path, each in last.items() if digest_of(fleet, path) != each.digest]
        again = len(self.load.deliveries) - len(last)
        self.say(
            "whole files",
            f"{len(last)} files ({again} of the {len(self.load.deliveries)} uploads overwrite an earlier one), "
            f"SHA-256 of {len(last) - len(wrong)} right",
            kept=not wrong,
        )
        twice = [path for path, count in Counter(each.path for each in self.load.deliveries).items() if count > 1]
        late = sum(path not in wrong for path in twice)
        self.say(
            "in order",
            f"{late} of {len(twice)} files sent more than once have the last content",
            kept=late == len(twice) if twice else None,
        )

    def _watches(self) -> None:
        seen = [each.revisions for each in self.load.deliveries]
        gaps = sum(revisions != list(range(1, len(revisions) + 1)) for revisions in seen)
        count = sum(len(revisions) for revisions in seen)
        self.say("watches miss nothing", f"{len(seen)} watches, {count} revisions, {gaps} with a gap", kept=not gaps)

    def _sessions(self, fleet: ServerFleet) -> None:
        # The lease of a worker that was killed a moment ago may still run.
        rows = fleet.rows("SELECT worker, epoch FROM sessions WHERE ended_at IS NULL")
        sessions = {worker: epoch for worker, epoch in rows if worker not in self.killed}
        moved = sorted(worker for worker, epoch in sessions.items() if epoch > 1)
        left = sorted({f"worker-{number}" for number in range(4)} - set(self.killed))
        self.say(
            "sessions move",
            f"{len(sessions)} workers connected; {', '.join(moved) or 'none'} had to change servers",
            kept=(True if moved else None) if sorted(sessions) == left else False,
        )

    def _leftovers(self, fleet: ServerFleet) -> None:
        deadline = time.monotonic() + EMPTY_WITHIN
        while (left := len(fleet.leftovers())) and time.monotonic() < deadline:
            time.sleep(0.1)
        temps = len(temps_under(fleet.instances))
        wrong = fleet.discrepancies()
        self.say(
            "nothing leaks",
            f"{left} objects in the spool, {temps} temps at destinations, {len(wrong)} sums wrong",
            kept=not (left or temps or wrong),
        )

    # And when it leaves -----------------------------------------------------------------------------------------------

    def leave(self, *groups: Sequence[Process]) -> None:
        """Send SIGTERM to all living processes, one group after the other."""
        codes: Counter[int | None] = Counter()
        began = time.monotonic()
        for group in groups:
            living = [process for process in group if process.running]
            with ThreadPoolExecutor(len(living)) as pool:
                codes.update(pool.map(_leave, living))
        took = time.monotonic() - began
        told = ", ".join(f"{count} with exit code {code}" for code, count in codes.items())
        self.say("leaves politely", f"{told}, after {took:.1f} s", kept=set(codes) == {0})


def _leave(process: Process) -> int | None:
    """End a process, and return its exit code. None means that the fleet's owner must kill it at the end."""
    try:
        return process.terminate(within=STOP_WITHIN)
    except subprocess.TimeoutExpired:
        return None


def digest_of(fleet: ServerFleet, path: str) -> str:
    """Return the SHA-256 of the file at a path of the instances, or an empty text where no file is."""
    try:
        return hashlib.sha256((fleet.instances / path).read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


def verdict(console: Console, account: Account) -> bool:
    """Print the table of promises, and return whether none was broken."""
    killed = ", ".join(account.killed) or "nobody"
    title = f"{account.files} files in {account.took:.1f} s; killed in the middle: {killed}"
    return verdict_of(console, account.lines, title)


def verdict_of(console: Console, lines: Sequence[Line], title: str) -> bool:
    """See `verdict`."""
    console.print()
    if console.is_terminal:
        console.print(_table(lines, title))
    else:
        print(title)
        for line in lines:
            print(f"{line.promise:32} {_WORDS[line.kept]:13} {line.found}")
    broken = [line.promise for line in lines if line.kept is False]
    idle = [line.promise for line in lines if line.kept is None]
    good = "Every promise was kept."
    good += f" Not exercised this time: {', '.join(idle)}." if idle else ""
    console.print(f"\nBroken: {', '.join(broken)}." if broken else f"\n{good}")
    return not broken


def _table(lines: Sequence[Line], title: str) -> Table:
    table = Table(box=box.ROUNDED, title=title, title_justify="left", title_style="bold")
    table.add_column("promise")
    table.add_column("kept", justify="center")
    table.add_column("what was found", overflow="fold")
    for line in lines:
        table.add_row(line.promise, _MARKS[line.kept], line.found)
    return table
