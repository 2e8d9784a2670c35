"""Typed client of the APIs, for the CLI, the agent and bootstrap: `transport` speaks HTTP; `shared`, `user` and `operator`
name the routes.
"""
