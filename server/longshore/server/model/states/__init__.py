"""The state table: the one place that says what an event does to a task.

`decide` is a pure function from a task and an event to a `Decision`. The store applies decisions and nothing else ever
changes a status; docs/states.md draws the same table.
"""

from __future__ import annotations

from longshore.server.model.states.table import decide, ended_well

__all__ = ["decide", "ended_well"]
