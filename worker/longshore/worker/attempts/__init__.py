"""Attempts: how a handler is run, what it is given, and what is reported of it."""
