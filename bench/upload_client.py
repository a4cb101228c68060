"""This process uploads a file as users do, with AsyncClient, for the row `upload`.

    python -m bench.upload_client ADDRESS TOKEN_FILE FILE

It prints `ready`. For each line on stdin it uploads the file, and prints the seconds that this took.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from pathlib import Path

from longshore.client import AsyncClient, push_spec


async def main(address: str, token_file: Path, content: Path) -> None:
    async with AsyncClient(server=address, token_file=token_file) as client:
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            spec = push_spec(f"bench-{secrets.token_hex(12)}/content")
            began = time.perf_counter()
            await client.upload(content, spec=spec)
            print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
