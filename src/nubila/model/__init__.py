"""The vocabulary: a file per noun with its Spec, Status, states and transitions. Pure: no I/O, no clock, no randomness."""
