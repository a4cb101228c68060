"""longshored: accepts uploads, keeps them, and dispatches them to a fleet of workers."""
