"""Background work of one kind: a pure step per noun over a snapshot, and one loop that reads, carries out and writes."""
