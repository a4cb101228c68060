"""This module looks names of servers up: each address behind a name counts as a server of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from typing import Final

from longshore.client.errors import Unavailable
from longshore.client.servers.endpoint import Endpoint

_LOOKUP: Final = 10.0
"""Seconds for a name to be looked up."""


async def looked_up(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Look up every address of every name, in their order. Addresses stay as they are.

    A name that cannot be looked up is left out as long as others can. Raises Unavailable when nothing is left.
    """
    given = list(endpoints)
    if not any(endpoint.is_name for endpoint in given):
        return tuple(given)
    found = await asyncio.gather(*(_addresses(endpoint) for endpoint in given), return_exceptions=True)
    good: dict[Endpoint, None] = {}
    for each in found:
        if isinstance(each, BaseException):
            if not isinstance(each, OSError | TimeoutError):
                raise each
            continue
        good |= dict.fromkeys(each)
    if not good:
        names = ", ".join(endpoint.host for endpoint in given if endpoint.is_name)
        why = next(each for each in found if isinstance(each, BaseException))
        raise Unavailable(f"the name {names} cannot be looked up: {getattr(why, 'strerror', '') or why}", reason="DNS")
    return tuple(good)


async def _addresses(endpoint: Endpoint) -> list[Endpoint]:
    if not endpoint.is_name:
        return [endpoint]
    async with asyncio.timeout(_LOOKUP):
        infos = await asyncio.get_running_loop().getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
    return [Endpoint(host=str(info[4][0]), port=endpoint.port, name=endpoint.host) for info in infos]
