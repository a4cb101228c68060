"""The commands of `longshore`, and the options and arguments that they share."""
