"""Steps from one schema to the next, run by Alembic from inside the package; see CONTRIBUTING for how to add one."""
