"""What the three programs have in common: their streams, their text, their environment and their signals.

It imports neither gRPC nor anything else of ours, so that a program can begin with it.
"""
