"""Where payloads are kept while a task needs them or may be retried."""
