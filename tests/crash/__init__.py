"""Crash points: the agent killed before and after every side effect, and every side effect carried out twice."""
