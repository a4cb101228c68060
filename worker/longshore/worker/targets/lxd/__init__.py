"""LXD and Incus daemons as targets."""
