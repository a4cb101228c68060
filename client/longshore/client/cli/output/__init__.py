"""What the commands print: text, tables, bars, JSON, and exit codes."""
