"""The `nubila` command: everything it does, it does over the APIs. One file per noun; `main` has the table of nouns."""
