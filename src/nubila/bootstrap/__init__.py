"""From an empty machine to a running installation, and back: `make up`, `down`, `destroy`, `dev`, and the supervisor.

`preflight`, `facts`, `owner`, `journal` and `packages` import the standard library only, so that they run on the
system's Python before anything is installed.
"""
