"""The installed programs begin here: before gRPC is imported, which reads its environment then."""

from __future__ import annotations

import longshore.program.quiet  # noqa: F401 - before gRPC is imported


def longshored() -> None:
    """`longshored`."""
    from longshore.server.main import main

    main()


def longshore_worker() -> None:
    """`longshore-worker`."""
    from longshore.worker.main import main

    main()
