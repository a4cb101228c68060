"""Threads, event loops and processes around the client."""
