"""These options set gRPC's core up for this server: sizes, signs of life, and what bounds a flood.

A caller is known only after the core has read the headers of a call, so whatever holds back somebody who shows no token
is in the core. The options are those of `grpc_types.h` and `chttp2`, at grpcio 1.85.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from longshore.server.config.settings import MIB
from longshore.server.edge.messages import wire

STREAMS: Final = 1000
"""Calls at once on one connection. The core refuses more with REFUSED_STREAM, and its clients keep to it: they wait for
one to end, or open another connection where that is allowed (`connectionScaling`, as our clients do)."""

WAITING: Final = 3_000
MOST_WAITING: Final = 4_000
"""Calls that wait to be taken, of all methods together (`grpc_server`). Beyond the first number the core ends some, at
random, as CANCELLED without a word, and beyond the second one all. Each takes 14 KiB, also after it was reset: 56 MiB.
With that for each method, calls of every method on 60 connections made the server 900 MiB larger, and it
answered no good caller for 20 s."""

_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.max_receive_message_length", wire.LARGEST_MESSAGE + wire.MARGIN),
    ("grpc.max_send_message_length", 4 * MIB),
    ("grpc.so_reuseport", 0),
    # Both sides must agree: with Python's defaults a client's pings are answered with "too many pings".
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    # Probing grows the window of each connection to several MiB, which loopback has no use for: 64 uploads at once took
    # 795 MiB with it and 412 without, as fast; one upload 140 and 100.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_concurrent_streams", STREAMS),
    # A call that was reset counts until the core has let go of it. The default, but everything hangs on it.
    ("grpc.http.overload_protection", 1),
    ("grpc.server.max_pending_requests", WAITING),
    ("grpc.server.max_pending_requests_hard_limit", MOST_WAITING),
)


def options(*, connections: int) -> list[tuple[str, int]]:
    """Return the channel options of a server of which each listener may have so many connections."""
    return [*_OPTIONS, ("grpc.max_allowed_incoming_connections", min(connections, (1 << 31) - 1))]
