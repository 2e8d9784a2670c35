"""Keeps the snapshot of all nodes for placement, and opens nodes' inventory. Reads through store; decides nothing."""
