"""These errors say why a spool is not opened. No caller over the network sees them: a server that meets one does not
start."""

from __future__ import annotations


class SpoolRefused(Exception):
    """The spool cannot be used as it is set up. The message says why and what to do, without naming an option."""
