"""The parts of `longshored`'s commands, and the commands besides serving. `main` puts them together."""
