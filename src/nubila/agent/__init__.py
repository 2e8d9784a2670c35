"""The agent of one node: observe, plan (pure), apply, report.

It serves what runs at once and always; it starts, stops and removes by the wish that the control plane confirmed.
"""
