"""The worker as a process: settings, log, clock, and its parts put together."""
