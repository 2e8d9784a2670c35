"""The process entry: a literal table from the first word to the function that is called with the rest of the line.

Only that function's module is imported, so that the CLI starts fast and no process loads what another one needs.
"""

from __future__ import annotations

import sys
from importlib import import_module

# word -> module:function, called with the arguments after the word
WORDS: dict[str, str] = {
    "serve": "nubila.main:serve",
    "migrate": "nubila.main:migrate",
    "database": "nubila.database:main",
    "fetcher": "nubila.drivers.image_store.fetcher:main",
    "agent": "nubila.agent.main:main",
    "simulate": "nubila.testing.main:main",
    "supervise": "nubila.bootstrap.main:supervise",
    "up": "nubila.bootstrap.main:up",
    "join": "nubila.bootstrap.main:join",
    "lab": "nubila.bootstrap.main:lab",
    "down": "nubila.bootstrap.main:down",
    "destroy": "nubila.bootstrap.main:destroy",
    "dev": "nubila.bootstrap.main:dev",
    "preflight": "nubila.bootstrap.main:preflight",
}
# every other word is a command of the client, called with the whole line
CLIENT = "nubila.cli.main:main"


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    own = WORDS.get(words[0]) if words else None
    module, function = (own or CLIENT).split(":")
    code = getattr(import_module(module), function)(words[1:] if own else words)
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
