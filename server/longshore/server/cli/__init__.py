"""What the commands of `longshored` are made of, and those besides serving. `main` puts them together."""
