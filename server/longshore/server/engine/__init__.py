"""Uploads, dispatch, sessions, watches and the janitor. Knows no protobuf."""
