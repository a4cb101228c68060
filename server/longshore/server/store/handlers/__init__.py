"""The commands: each handler changes the unit of work as its command says."""
