"""The commands print by this package: text, tables, bars, JSON, and exit codes."""
