"""The worker's side of the session with a server."""
