"""The process that fetches images by address: `nubila fetcher`, under a user that owns nothing but its socket.

The control plane's processes cannot become another user themselves, so they ask here (fetch.py). Each connection gets a
process of its own (fetch_child.py), which may start no further ones. Invariant: who is not of the control plane's group
reaches no socket, and a child that was taken over can neither read nor change this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socketserver
import sys
from pathlib import Path

from nubila.config import BadSettings, load
from nubila.drivers.image_store import fetch_child

AT_ONCE = 16
_PR_SET_DUMPABLE = 4
HELP = """Usage: nubila fetcher

Fetch images by address for the control plane. The supervisor, which 'sudo make up' starts, runs it as a user of its
own."""


class Child(socketserver.BaseRequestHandler):
    server: Fetcher

    def handle(self) -> None:
        self.server.socket.close()
        fetch_child.serve(self.request)


class Fetcher(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    max_children = AT_ONCE
    request_queue_size = AT_ONCE

    def server_bind(self) -> None:
        """The directory's group, which a file in it gets, may connect."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(str(self.server_address))
        super().server_bind()
        os.chmod(str(self.server_address), 0o660)

    def handle_error(self, request: object, client_address: object) -> None:
        """What a stranger's bytes make of the child is no news of ours: who asked sees that it ended."""


def serve(path: Path) -> None:
    """Until it is ended."""
    # a process of the same user may neither trace this one nor see into its memory
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    with Fetcher(str(path), Child) as server:
        server.serve_forever()


def main(argv: list[str]) -> int:
    if argv:
        print(HELP)
        return 0 if {"-h", "--help"} & set(argv) else 2
    try:
        serve(load().fetch_socket)
    except (BadSettings, OSError) as e:
        print(f"nubila fetcher: {e}. The supervisor runs this, which 'sudo make up' starts.", file=sys.stderr)
        return 1
    return 0
