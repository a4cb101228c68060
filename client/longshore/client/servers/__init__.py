"""The servers that a client knows: addresses, credentials, connections and retries."""
