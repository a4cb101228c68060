"""The fuzz campaign: calls of every kind against a real server, in rounds, with quiet between them.

It finds: INTERNAL, UNKNOWN and DATA_LOSS, calls that are not answered, tracebacks and unbounded lines in the log,
memory that grows from round to round, and a healthy client that waits. `make fuzz` runs it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from longshore.server.model.access import Role
from tests.support.fuzzing.calls import CallResult, Fuzzer
from tests.support.servers.processes import ServerProcess
from tests.support.servers.tokens import token_of

OPTIONS: Final = ("--upload-idle", "5s", "--upload-limit", "500", "--history", "60s", "--lease", "5s")
"""The server runs with these options: things that a call leaves behind go soon, so that the next calls get as far."""
ENVIRONMENT: Final = {"GRPC_VERBOSITY": "NONE"}
"""The installed `longshored` has this environment too."""
ROUNDS: Final = 6
OF_A_ROUND: Final = 1700
"""Calls of a round at most: short rounds meet whatever else the machine does as often as the quiet between them."""
AT_ONCE: Final = 16
"""Calls that are under way at a time."""
RATE: Final = 350
"""Calls a second at most, so that the campaign does not measure how busy its own machine is."""
QUIET: Final = 3.0
"""Seconds before each round, in which the healthy client is alone."""
PATIENCE_RATIO: Final = 3.0
FLOOR: Final = 0.05
"""Seconds. A healthy client's p99 below this is never held against the server: the campaign's own processes share the
cores with it, and make more than that of it."""
GROWTH: Final = 64 << 20
"""Bytes by which the server may have grown from the end of a third of the rounds to the end of the last."""

SPEAKERS: Final = 7
"""Callers that have lines of their own: the three roles, the local token, nobody, metadata; and one to spare."""
WORK: Final = frozenset(
    {
        "task", "upload_complete", "upload_detached", "cancel", "retry", "operator", "worker_connected",
        "worker_disconnected", "worker_left", "emptying_for_solo_task", "parked_tasks_woken", "session_lost",
        "session_silent", "reports_left_behind", "worker_too_slow", "streams_ended", "upload_rejected",
    }
)  # fmt: skip
"""Events that tell of work that was taken on, of which there may be as many as there is work."""


@dataclass
class Report:
    """The report has what a campaign saw."""

    seed: int
    floor: float = FLOOR
    calls: int = 0
    seconds: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[CallResult] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    quiet: list[list[float]] = field(default_factory=list)
    """Each call of the healthy client took so many seconds, in the quiet before each round."""
    busy: list[list[float]] = field(default_factory=list)
    """The same, within each round."""
    late: list[list[float]] = field(default_factory=list)
    """The machine woke the healthy client so late from its pauses, within each round."""
    lines: Counter[str] = field(default_factory=Counter)
    bad_lines: list[str] = field(default_factory=list)
    span: float = 0.0

    @property
    def problems(self) -> list[str]:
        """Everything that must not be."""
        found = [
            f"call {one.number}: {one.method} ({one.kind}) ended {one.code.name} {one.reason} {one.message[:200]}"
            f"{' LATE' if one.late else ''}; sent {one.sent[:100].hex()}"
            for one in self.wrong[:20]
        ]
        found += [f"{len(self.wrong)} wrong ends"] if len(self.wrong) > 20 else []
        found += [f"log: {line[:2000]}" for line in self.bad_lines[:10]]
        loose = sum(count for event, count in self.lines.items() if event not in WORK)
        allowed = SPEAKERS * self.span + 100
        if loose > allowed:
            found.append(f"{loose} lines in {self.span:.0f} s that tell of no work: {dict(self.lines)}")
        if self.resident and self.resident[-1] - self.resident[len(self.resident) // 3] > GROWTH:
            found.append(f"memory grew: {[size >> 20 for size in self.resident]} MiB")
        if self.ratio > PATIENCE_RATIO and self.busy_p99 > self.floor:
            found.append(f"a healthy client's p99 was {self.ratio:.1f} times what it was alone")
        return found

    @property
    def quiet_p99(self) -> float:
        """Seconds: the median of the quiet spans."""
        return statistics.median(_quantile(span, 0.99) for span in self.quiet)

    @property
    def busy_p99(self) -> float:
        """Seconds: the median of the rounds. What else the machine does meets some of them, and not the median."""
        return statistics.median(_quantile(span, 0.99) for span in self.busy)

    @property
    def late_p99(self) -> float:
        """Seconds: the median of the rounds."""
        return statistics.median(_quantile(span, 0.99) for span in self.late)

    @property
    def ratio(self) -> float:
        """Return the ratio of a round's p99 to that of the quiet before it, as the median of the rounds."""
        pairs = zip(self.quiet, self.busy, strict=True)
        return statistics.median(_quantile(busy, 0.99) / _quantile(quiet, 0.99) for quiet, busy in pairs)

    def __str__(self) -> str:
        late = f"{self.late_p99 * 1e3:.1f} ms (p99) for its turn"
        waits = f"{self.quiet_p99 * 1e3:.1f} alone, {self.busy_p99 * 1e3:.1f} beside it"
        rows = [f"  {count:7}  {end}" for end, count in sorted(self.ends.items(), key=lambda one: -one[1])]
        return "\n".join(
            [
                f"seed {self.seed}: {self.calls} calls in {self.seconds:.0f} s",
                *rows,
                f"server resident after each round, MiB: {[size >> 20 for size in self.resident]}",
                f"a healthy client's p99, ms: {waits}; {self.ratio:.1f} times as long (medians of the rounds)",
                f"a process waited {late} beside it",
                f"log lines by event: {dict(self.lines.most_common())}",
                *(f"WRONG: {problem}" for problem in self.problems),
            ]
        )


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[math.ceil(len(values) * share) - 1] if values else 0.0


def run(server: ServerProcess, *, calls: int, seed: int, floor: float = FLOOR) -> Report:
    """A whole campaign against a server that runs."""
    tokens = {role.value: token_of(server, f"fuzz-{role.value}", role) for role in Role} | {"all": server.token}
    return asyncio.run(_run(server, tokens, Report(seed, floor), calls=calls))


async def _run(server: ServerProcess, tokens: dict[str, str], report: Report, *, calls: int) -> Report:
    began = time.monotonic()
    healthy = _healthy(server)
    noise: list[tuple[float, float]] = []
    fuzzer = Fuzzer(address=server.address, seed=report.seed, tokens=tokens)
    timings: list[str] = []
    reading = asyncio.create_task(asyncio.to_thread(_drain, healthy, timings))
    rounds = max(ROUNDS, calls // OF_A_ROUND)
    try:
        for at in range(rounds):
            await asyncio.sleep(QUIET)
            start = time.monotonic()
            await _round(fuzzer, report, range(calls * at // rounds, calls * (at + 1) // rounds))
            noise.append((start, time.monotonic()))
            report.resident.append(server.resident())
        await asyncio.sleep(QUIET)
        report.resident.append(server.resident())
    finally:
        await fuzzer.close()
        if healthy.stdin is not None:
            healthy.stdin.close()
        await reading
        if healthy.stdout is not None:
            healthy.stdout.close()
        healthy.wait(30)
    report.calls, report.seconds = calls, time.monotonic() - began
    report.span = sum(end - start for start, end in noise)
    timed = [(float(when), float(took), kind) for when, took, kind in map(str.split, timings)]
    for start, end in noise:
        quiet = [took for when, took, kind in timed if start - QUIET <= when < start and kind == "call"]
        busy = [(took, kind) for when, took, kind in timed if start <= when <= end]
        report.quiet.append(quiet)
        report.busy.append([took for took, kind in busy if kind == "call"])
        report.late.append([took for took, kind in busy if kind == "late"])
    _read_log(server, report)
    return report


def _healthy(server: ServerProcess) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "tests.support.fuzzing.healthy", server.address, str(server.token_file)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _drain(process: subprocess.Popen[str], lines: list[str]) -> None:
    assert process.stdout is not None
    lines.extend(process.stdout)


async def _round(fuzzer: Fuzzer, report: Report, numbers: range) -> None:
    """These calls, a few at once, and no more a second than RATE."""
    began, turn = time.monotonic(), iter(numbers)

    async def sender() -> None:
        for number in turn:
            due = began + (number - numbers.start) / RATE
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            ended = await fuzzer.call(number)
            report.ends[f"{ended.code.name} {ended.reason}".strip()] += 1
            if ended.wrong:
                report.wrong.append(ended)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(sender())


def _read_log(server: ServerProcess, report: Report) -> None:
    for line in server.log().splitlines():
        record: Any = None
        if line.startswith("{"):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
        event = str(record.get("event", "")) if isinstance(record, dict) else "(no JSON)"
        report.lines[event if len(event) < 40 else "(long)"] += 1
        if event == "defect" or "Traceback" in line or "never retrieved" in line or "Exception" in line:
            report.bad_lines.append(line)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Run one, and print what came of it; 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None, help="the seed of a campaign before, to make its calls again")
    options = parser.parse_args()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    _say(f"seed {seed}")
    with (
        tempfile.TemporaryDirectory(prefix="longshore-fuzz-") as folder,
        ServerProcess(Path(folder), *OPTIONS, environment=ENVIRONMENT) as server,
    ):
        report = run(server, calls=options.calls, seed=seed)
    _say(str(report))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
