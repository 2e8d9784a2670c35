"""Alembic's environment and the versions: each runs frozen SQL from the file beside it, in a before and an after half."""
