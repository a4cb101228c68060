"""What can be told of an argument without asking a server."""
