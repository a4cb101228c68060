"""The writer thread commits waiting commands in groups, each group in one transaction."""
