"""The nouns of Longshore and the rules between them: values and pure functions, no I/O."""
