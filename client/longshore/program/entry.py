"""Where the installed programs begin: before gRPC is imported, which reads its environment then."""

from __future__ import annotations

import os
from typing import Final

_QUIET: Final = "GRPC_VERBOSITY"


def be_quiet() -> None:
    """Keep gRPC's own lines (a port that is taken, a handshake that fails) out of our log, unless they are asked for.

    They are no JSON, and stand before the line of ours that says the same in words.
    """
    os.environ.setdefault(_QUIET, "NONE")


def longshored() -> None:
    """`longshored`."""
    be_quiet()
    from longshore.server.main import main

    main()


def longshore_worker() -> None:
    """`longshore-worker`."""
    be_quiet()
    from longshore.worker.main import main

    main()
