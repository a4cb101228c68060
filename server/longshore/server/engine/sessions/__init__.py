"""Sessions of workers: assignments, grants, cancels, reports and leases."""
