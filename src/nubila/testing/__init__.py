"""A fleet in one process and in virtual time: the product's own decisions over fake hosts, wires and rows, with seeded faults.

Ships with the package; called by the word `simulate`. Nothing of the product imports it.
"""
