"""Settings, and what they name: the database, the spool and the advertised address."""
