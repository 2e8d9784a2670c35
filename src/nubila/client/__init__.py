"""Typed client of the APIs: `transport` speaks HTTP, `api` names the routes. For the CLI, the agent and bootstrap."""
