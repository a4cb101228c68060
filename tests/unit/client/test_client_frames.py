"""An upload's frames use the memory of the frames before them."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.support.servers.fakeservice import FakeTaskServer

SIZE = 96 << 20

_UPLOAD = """
import asyncio, mmap, resource, sys
from longshore.client import AsyncClient, push_spec

def taken():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt * mmap.PAGESIZE

async def main(address, path):
    async with AsyncClient(server=address, token="secret") as client:
        await client.upload(b"the first call", spec=push_spec("web/first"))
        before = taken()
        await client.upload(path, spec=push_spec("web/content"))
        print(taken() - before)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_the_kernel_is_not_asked_for_the_memory_of_every_frame(tmp_path: Path) -> None:
    """In a process of its own: how the C library allocates is one setting for the process. Without it, half more pages
    than the content has are taken."""
    content = tmp_path / "content"
    with content.open("wb") as file:
        file.truncate(SIZE)
    async with FakeTaskServer() as server:
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _UPLOAD, server.address, str(content), stdout=asyncio.subprocess.PIPE
        )
        said, _ = await client.communicate()
    assert client.returncode == 0
    assert int(said) < SIZE // 2
