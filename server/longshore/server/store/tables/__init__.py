"""The schema, and the functions that turn its rows into values of the model."""
