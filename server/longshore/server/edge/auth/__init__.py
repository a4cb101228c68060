"""Authentication and roles: which principal calls, and which RPCs its roles open."""
