"""Importing this before gRPC keeps gRPC's own lines (a port that is taken, a handshake that fails) out of our log.

Those lines are no JSON, and they stand before the line of ours that says the same in words. gRPC reads its environment
when it is imported. `GRPC_VERBOSITY`, where it is set, decides.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
