"""Handlers, a file per noun, shared by the planes' route tables: what differs is who asks, and the principal says that."""
