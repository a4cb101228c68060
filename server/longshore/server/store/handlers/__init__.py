"""Handlers carry out the commands: each one changes the unit of work as its command says."""
