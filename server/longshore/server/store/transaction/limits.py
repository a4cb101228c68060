"""How many attempts may run at once: on one instance, and on one target."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyLimits:
    """Attempts that may run at once, 1 or more each.

    `instance` bounds one slow instance, `target` one hung daemon, so that neither holds up the others (P10).
    """

    instance: int = 4
    target: int = 64
