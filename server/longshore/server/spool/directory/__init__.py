"""This spool keeps payloads in a directory."""
