"""The three programs share this package: their streams, their text, their environment and their signals.

The package imports neither gRPC nor anything else of ours, so that a program can begin with it.
"""
