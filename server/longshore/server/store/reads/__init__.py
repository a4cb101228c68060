"""Queries that change nothing, and the threads that run them."""
