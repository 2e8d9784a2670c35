"""The words of `python -m nubila` that belong to bootstrap: up, join, lab, down, destroy, dev, supervise, preflight.

Called by the Makefile (through `__main__`) as root. Exit status 0: done, or nothing to do. What a person may get wrong
ends in a sentence, never in a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from nubila.bootstrap import preflight as checks
from nubila.bootstrap.asked import DEFAULT_PORT, DEFAULT_SUBNET4, Asked, Unusable, asked
from nubila.bootstrap.destroy import destroy as destroy_all
from nubila.bootstrap.down import down as go_down
from nubila.bootstrap.facts import PORT_SETTINGS
from nubila.bootstrap.install import NotOurs, open_install
from nubila.bootstrap.packages import PackageFailure
from nubila.bootstrap.postgres import DatabaseFailure
from nubila.bootstrap.runtime import RuntimeFailure
from nubila.bootstrap.supervisor import supervise as run_supervisor
from nubila.bootstrap.units import UnitFailure
from nubila.config import BadSettings

FAILURES = (NotOurs, PackageFailure, DatabaseFailure, RuntimeFailure, UnitFailure, BadSettings)


def up(argv: list[str]) -> int:
    return _as_root("up", argv, _up)


def join(argv: list[str]) -> int:
    return _as_root("join", argv, _join)


def down(argv: list[str]) -> int:
    return _as_root("down", argv, lambda a: go_down(a.name, a.clone))


def destroy(argv: list[str]) -> int:
    return _as_root("destroy", argv, _destroy)


def dev(argv: list[str]) -> int:
    return _as_root("dev", argv, _dev)


def supervise(argv: list[str]) -> int:
    """Its settings come from the environment; `make up` starts it."""
    if argv or os.geteuid() != 0:
        print("nubila supervise: 'sudo make up' starts it; it takes no words, and runs as root.", file=sys.stderr)
        return 0 if {"-h", "--help"} & set(argv) else 2
    os.umask(0o022)
    try:
        return run_supervisor(argv)
    except BadSettings as e:
        print(f"supervise: {e}", file=sys.stderr)
        return 1


def preflight(argv: list[str]) -> int:
    return checks.main(argv)


def lab(argv: list[str]) -> int:
    """Machines of namespaces; 'nubila lab --help'."""
    from nubila.bootstrap.lab_words import lab as act
    from nubila.bootstrap.lab_world import LabFailure
    from nubila.bootstrap.waiting import NotComing
    from nubila.client.answers import ConnectionFailed, ProblemError

    try:
        return act(argv)
    except (LabFailure, NotComing, ConnectionFailed, ProblemError, *FAILURES) as e:
        print(f"lab: {e}", file=sys.stderr)
        return 1


def _as_root(word: str, argv: list[str], act: Callable[[Asked], int]) -> int:
    try:
        a = asked(word, argv)
        if os.geteuid() != 0:
            print(f"You are not root: run 'sudo make {word}'.", file=sys.stderr)
            return 1
        return act(a)
    except Unusable as e:
        print(e, file=sys.stderr)
    except FAILURES as e:
        print(f"make {word}: {e}", file=sys.stderr)
    return 1


def _up(a: Asked, drivers: str = "real") -> int:
    from nubila.bootstrap.up import up as go_up

    port = a.port or DEFAULT_PORT
    given: dict[str, str | int | bool] = dict(zip(PORT_SETTINGS, range(port, port + 3), strict=True))
    given |= {"drivers": drivers} | ({"listen": a.listen} if a.listen else {})
    subnet4 = a.subnet4 or DEFAULT_SUBNET4
    return _coming("up", a, lambda: go_up(a.name, a.clone, subnet4, given, adopt="adopt" in a.accepted))


def _join(a: Asked) -> int:
    from nubila.bootstrap.join import join as go_join

    held = open_install(a.name, a.clone, adopt="adopt" in a.accepted)
    if held is None and a.control is None:
        raise Unusable("Say which control plane: 'make join CONTROL=https://HOST:8442'.")
    if held is not None and "control" in held.settings.parts:
        raise Unusable(f"'{a.name}' has a control plane of its own here; to join another one, take another NAME.")
    given = {"control": a.control or ""}
    return _coming("join", a, lambda: go_join(a.name, a.clone, given, adopt="adopt" in a.accepted))


def _coming(word: str, a: Asked, act: Callable[[], int]) -> int:
    """What does not come, or is refused, said in words."""
    from nubila.bootstrap.waiting import NotComing
    from nubila.client.answers import ConnectionFailed, ProblemError

    os.umask(0o022)
    try:
        return act()
    except ProblemError as e:
        print(f"make {word}: {e}\n{e.fix} (request {e.request_id}; logs: /var/lib/{a.name}/log)", file=sys.stderr)
        return 1
    except (NotComing, ConnectionFailed) as e:
        print(f"make {word}: {e}", file=sys.stderr)
        return 1


def _destroy(a: Asked) -> int:
    return destroy_all(a.name, a.clone, packages=a.packages, adopt="adopt" in a.accepted)


def _dev(a: Asked) -> int:
    """A throw-away fabric with fake drivers: up, wait for Ctrl-C, destroy."""
    held = open_install(a.name, a.clone, by_name=True)
    if held is not None and held.settings.drivers != "fake":
        print(
            f"'{a.name}' is a real installation, which 'make dev' would remove in the end. Take another NAME.",
            file=sys.stderr,
        )
        return 1
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        try:
            code = _up(a, drivers="fake")
        except FAILURES as e:
            print(f"make dev: {e}", file=sys.stderr)
            code = 1
        if code == 0:
            words = f"vm create web --context {a.name} --flavor tiny --image nubila-mini"
            print(f"\nTry './nubila {words}'. Ctrl-C removes it all.", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        code = 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return destroy_all(a.name, a.clone) or code


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
