"""Statements that are compiled once, and the connection that runs them on either database."""
