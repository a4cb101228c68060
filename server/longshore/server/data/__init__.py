"""The data directory, and how far the database has come by what it says."""
