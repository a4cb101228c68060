"""The spool in a directory."""
