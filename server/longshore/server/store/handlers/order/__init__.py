"""Which task runs next: heads, ready tasks, exclusive tasks, and the claim."""
