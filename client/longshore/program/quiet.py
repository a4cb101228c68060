"""Importing this before gRPC keeps gRPC's own lines out of the log. For `python -m`, which begins with an import."""

from __future__ import annotations

from longshore.program.entry import be_quiet

be_quiet()
