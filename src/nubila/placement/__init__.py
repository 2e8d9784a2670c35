"""Where a vm may run, decided purely: a request and a snapshot of all nodes make a ranking, or a refusal with numbers."""
