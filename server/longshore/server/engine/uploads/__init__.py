"""Uploads: the bytes of a payload on their way from the caller into the spool."""
