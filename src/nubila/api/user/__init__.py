"""The plane of end users: one token, one project."""
