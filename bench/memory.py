"""Peak resident memory of the server and of the worker, each in MiB, while 10 GiB pass through both.

Ten files of 1 GiB, one after the other: uploaded by a real client, read in place from the spool, delivered to the same
place in a `directory` target (so that none is kept), but the last one, which goes into a container over SFTP. Then the
same with `--no-share-spool`, two files, so that the worker downloads what it delivers.

The peer is for information: one process that gives `files.put` of pylxd a file of 1 GiB as a bytes body, which is how
its documentation shows it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from bench.delivery import GIB, MIB, Site, fresh, pattern, site
from bench.rows import Goal, Run, row
from longshore.client import AsyncClient, push_spec
from longshore.v1 import task_pb2

FILES: Final = 10
DOWNLOADED: Final = 2
GOAL: Final = Goal(at_most=150, ours=True)

_PYLXD: Final = """
import resource, sys, urllib.parse
import pylxd
client = pylxd.Client(endpoint="http+unix://" + urllib.parse.quote(sys.argv[1], safe=""))
with open(sys.argv[3], "rb") as file:
    client.instances.get(sys.argv[2]).files.put(sys.argv[4], file.read())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


async def measure(run: Run) -> None:
    source = pattern(run.folder / "large", GIB)
    (run.folder / "roots" / "web").mkdir(parents=True)
    there = f"roots=directory:{run.folder / 'roots'}"
    peaks: dict[str, list[float]] = {"server": [], "worker": []}
    theirs: list[float] = []
    for _ in range(run.rounds):
        for files, options in ((FILES, ()), (DOWNLOADED, ("--no-share-spool",))):
            with site(run, targets=[there], server_options=options) as here:
                await _pass(here, source, files)
                for process in (here.server, here.worker):
                    peak = process.resident(peak=True) / MIB
                    run.say(f"memory: {process.name} {peak:.0f} MiB after {files} GiB {' '.join(options)}")
                    peaks[process.name].append(peak)
                if not options:
                    theirs.append(_pylxd(here, source))
    for name, found in peaks.items():
        run.compare(what=name, peer="pylxd files.put of bytes", unit="MiB", ours=[max(found)], theirs=theirs, goal=GOAL)


async def _pass(here: Site, source: Path, files: int) -> None:
    async with AsyncClient(server=here.server.address, token_file=here.server.token_file) as client:
        for number in range(files):
            last = number == files - 1
            to = task_pb2.Destination(
                target="" if last else "roots", instance=here.name if last else "web", path=fresh("m") if last else "/m"
            )
            (task,) = await client.upload(source, spec=push_spec(to))
            ended = await client.wait(task.id)
            assert ended.state == task_pb2.TASK_STATE_SUCCEEDED, ended


def _pylxd(here: Site, source: Path) -> float:
    argv = [sys.executable, "-c", _PYLXD, str(here.daemon.socket), here.name, str(source), "/root/pylxd"]
    return float(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)


main = row("memory", measure, rounds=1)

if __name__ == "__main__":
    main()
