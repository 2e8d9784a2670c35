"""A pure draft per verb: a request and a view make a Draft, or an error as a value. `carry.py` alone reads and commits."""
