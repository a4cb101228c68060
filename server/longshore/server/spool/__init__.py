"""The spool keeps payloads while a task needs them or may be retried."""
