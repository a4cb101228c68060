"""This package reads and checks arguments without asking a server."""
