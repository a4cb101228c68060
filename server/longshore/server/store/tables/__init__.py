"""The schema, and how its rows become values of the model."""
