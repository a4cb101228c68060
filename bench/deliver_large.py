"""One file of 1 GiB into a running container, MiB/s.

Ours: a file_push with its defaults, that is a new temp, verified by size, owner, mode and the CRC32C of what was sent,
then granted and renamed; measured by the server's clock from the claim to the durable end of the attempt. The upload,
which is the row `upload`, is over by then and the file is in the server's spool, which the worker on this machine reads
in place. A second line has no goal: everything, with the command `longshore push --wait`, which stores the file durably
on the way, so that it is written twice and synced once.

The peers read the same file from the same disk: the command `lxc file push`, and `files.put` of pylxd with a file
object. Both write in place, unverified. LXD syncs the instance's file system at the end of a `files.put`; SFTP has no
such request, and ours ends with every write acknowledged.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.delivery import GIB, LONGSHORE, MIB, Pylxd, Site, fresh, pattern, said_cpu, site, timed
from bench.rows import Contender, Goal, Run, row
from longshore.client import AsyncClient, push_spec

_SIZE = GIB // MIB
GOAL = Goal(at_least=2)


async def measure(run: Run) -> None:
    source = pattern(run.folder / "large", GIB)
    with site(run) as here:
        pylxd = await Pylxd.start(here.daemon, here.name)
        try:
            async with AsyncClient(server=here.server.address, token_file=here.server.token_file) as client:
                await _measure(run, here, pylxd, client, str(source))
        finally:
            await pylxd.close()


async def _measure(run: Run, here: Site, pylxd: Pylxd, client: AsyncClient, source: str) -> None:
    # Uploaded once: each delivery is a task of its own for the payload of this one, which is never due.
    (kept,) = await client.upload(source, spec=push_spec(f"{here.name}/never", not_before=3600))
    payload = kept.payload.id

    async def ours(path: str) -> float:
        (task,) = await client.submit(spec=push_spec(f"{here.name}{path}"), payload_id=payload)
        assert await _ended(client, task.id)
        attempt = (await client.attempts(task.id))[-1]
        assert attempt.outcome == "OK", attempt
        return (attempt.end_time.ToNanoseconds() - attempt.start_time.ToNanoseconds()) / 1e9

    async def command(path: str) -> float:
        argv = [*LONGSHORE, "push", "--wait", source, f"{here.name}{path}"]
        return await timed(*argv, environment=here.environment)

    async def lxc(path: str) -> float:
        argv = ["lxc", "file", "push", "-q", source, f"{here.name}{path}"]
        return await timed(*argv, environment=here.environment)

    async def put(path: str) -> float:
        return await pylxd.put(Path(source), [path])

    def contender(name: str, push: Callable[[str], Awaitable[float]]) -> Contender:
        async def once() -> float:
            path = fresh(name)
            before = here.cpu(pylxd=pylxd.process.pid)
            seconds = await push(path)
            said_cpu(run, name, before, here.cpu(pylxd=pylxd.process.pid), 1, "s/GiB")
            size = here.daemon.run_in(here.name, f"stat -c %s {path} && rm {path}")
            assert int(size) == GIB, size
            # So that nobody pays for what another has left to be written.
            os.sync()
            return _SIZE / seconds

        return once

    figures = await run.turns(
        {
            "ours": contender("ours", ours),
            "lxc": contender("lxc", lxc),
            "pylxd": contender("pylxd", put),
            "command": contender("command", command),
        },
        warm=0,
    )
    for peer in ("lxc", "pylxd"):
        name = {"lxc": "lxc file push", "pylxd": "pylxd files.put"}[peer]
        run.compare(peer=name, unit="MiB/s", ours=figures["ours"], theirs=figures[peer], goal=GOAL)
    run.compare(
        what="longshore push --wait, end to end",
        peer="lxc file push",
        unit="MiB/s",
        ours=figures["command"],
        theirs=figures["lxc"],
    )


async def _ended(client: AsyncClient, task_id: str) -> bool:
    return [task.done async for task in client.watch(task_id)][-1]


main = row("deliver-large", measure, rounds=3)

if __name__ == "__main__":
    main()
