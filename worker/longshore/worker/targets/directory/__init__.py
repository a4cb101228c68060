"""Directories of instance roots as targets."""
