"""The durable state: commands that change it in groups, queries that read it, and what a commit tells the engine."""
