"""Measurements: each beside its floor or peer in the same run. `make bench` prints a table and writes build/bench.json."""
