"""The server as a process: its data directory, listeners, logs, health and child worker."""
