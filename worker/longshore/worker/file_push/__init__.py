"""The built-in kind `file_push`."""
