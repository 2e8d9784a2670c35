"""The words of `python -m nubila` that belong to bootstrap: up, down, destroy, dev, supervise, preflight.

Called by the Makefile (through `__main__`) as root. Exit status 0: done, or nothing to do.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from nubila.bootstrap import preflight as checks
from nubila.bootstrap.destroy import destroy as destroy_all
from nubila.bootstrap.down import down as go_down
from nubila.bootstrap.install import DEFAULT_SUBNET4, NotOurs
from nubila.bootstrap.packages import PackageFailure
from nubila.bootstrap.postgres import DatabaseFailure
from nubila.bootstrap.runtime import RuntimeFailure
from nubila.bootstrap.supervisor import supervise as run_supervisor

FAILURES = (NotOurs, PackageFailure, DatabaseFailure, RuntimeFailure)


def up(argv: list[str], drivers: str = "real") -> int:
    from nubila.bootstrap.fabric import NotComing
    from nubila.bootstrap.up import up as go_up
    from nubila.client.answers import ConnectionFailed, ProblemError

    a = _parse("up", argv)
    os.umask(0o022)
    try:
        return go_up(a.name, a.clone.resolve(), a.port, a.subnet, adopt="adopt" in a.accept, drivers=drivers)
    except ProblemError as e:
        print(f"make up: {e}\n{e.fix} (request {e.request_id}; logs: /var/lib/{a.name}/log)", file=sys.stderr)
        return 1
    except (*FAILURES, NotComing, ConnectionFailed) as e:
        print(f"make up: {e}", file=sys.stderr)
        return 1


def dev(argv: list[str]) -> int:
    """A throw-away fabric with fake drivers: up, wait for Ctrl-C, destroy."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    a = _parse("dev", argv)
    try:
        if (code := up(argv, drivers="fake")) == 0:
            print(
                "\nTry './nubila vm create web --flavor tiny --image nubila-mini'. Ctrl-C removes it all.", flush=True
            )
            signal.pause()
    except KeyboardInterrupt:
        code = 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return destroy([f"--name={a.name}", str(a.clone)]) or code


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def down(argv: list[str]) -> int:
    a = _parse("down", argv)
    return _guarded("make down", lambda: go_down(a.name, a.clone.resolve()))


def destroy(argv: list[str]) -> int:
    a = _parse("destroy", argv)
    adopt = "adopt" in a.accept
    return _guarded("make destroy", lambda: destroy_all(a.name, a.clone.resolve(), packages=a.packages, adopt=adopt))


def supervise(argv: list[str]) -> int:
    os.umask(0o022)
    return run_supervisor(argv)


def preflight(argv: list[str]) -> int:
    return checks.main(argv)


def _parse(word: str, argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"nubila {word}")
    parser.add_argument("--name", default="nubila")
    parser.add_argument("--port", type=int, default=8440)
    parser.add_argument("--subnet", default=DEFAULT_SUBNET4)
    parser.add_argument("--accept", default="")
    parser.add_argument("--packages", action="store_true", help="destroy: also the Debian packages that were installed")
    parser.add_argument("clone", type=Path)
    return parser.parse_args(argv)


def _guarded(what: str, act: object) -> int:
    assert callable(act)
    try:
        return int(act())
    except FAILURES as e:
        print(f"{what}: {e}", file=sys.stderr)
        return 1
