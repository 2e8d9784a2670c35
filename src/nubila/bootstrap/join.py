"""`make join`: this machine becomes a node of a control plane elsewhere, by a join token that an operator made there.

Called after the preflight found nothing wrong. The agent enrols itself; all that is done here is to have its processes,
and to hand it the token. Invariant: the token comes by standard input and lies in a file of root's alone until the agent
used it; a second run changes nothing.
"""

from __future__ import annotations

import getpass
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from nubila.bootstrap import guest, services
from nubila.bootstrap.install import Install, claim, write_secret
from nubila.bootstrap.say import Progress
from nubila.bootstrap.waiting import NotComing, tail

ENROLLED_WITHIN_S = 60.0
NEEDED = (
    "A join token is needed: an operator makes one by 'nubila join-token create', and it is given on standard input, "
    "where no list of processes shows it."
)


def join(name: str, clone: Path, given: Mapping[str, str | int | bool], *, adopt: bool) -> int:
    install, begun = claim(name, clone, "", given, adopt=adopt)
    install.build.mkdir(exist_ok=True)
    progress = Progress()
    progress.changed += begun
    return joined(install, progress, begun=begun)


def joined(install: Install, progress: Progress, *, begun: bool) -> int:
    settings = install.settings
    given = "" if _certificate(install).exists() else _token()
    print(f"This machine as a node of {settings.control}:", flush=True)
    ensure(install, progress.step, lambda: given, begun=begun)
    print("Operators see it there by 'nubila node list'.")
    print(progress.end("Joined", "it was a node already"))
    return 0


def ensure(install: Install, step: services.Step, token: Callable[[], str], *, begun: bool) -> None:
    """Have the agent run here, enrolled; a token is asked for only when it is not."""
    certificate = _certificate(install)
    enrolled = certificate.exists()
    services.prepare(install, step, begun=begun)
    step("guest image, to see how guests boot", lambda: guest.image(install))
    if not enrolled:
        guest.probe_files(install)
        write_secret(install.settings.node_dir / "join-token", f"{token()}\n")
    step("agent", lambda: services.ensure(install, lambda: _lacking(install)))
    step("enrolment", lambda: _enrolled(install, certificate, not enrolled))


def _certificate(install: Install) -> Path:
    return install.settings.node_dir / "identity" / "node.pem"


def _token() -> str:
    """From a person at a terminal, or from what is written into standard input."""
    if sys.stdin is None:
        raise NotComing(NEEDED)
    given = getpass.getpass("Join token: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not given.strip():
        raise NotComing(NEEDED)
    return given.strip()


def _lacking(install: Install) -> dict[str, str]:
    agent = services.children(install).get("agent")
    return {} if agent and agent["ready"] else {"agent": "the agent does not run"}


def _enrolled(install: Install, certificate: Path, asked: bool) -> str:
    """Until it has its certificate; the agent's log says why it has none."""
    deadline = time.monotonic() + ENROLLED_WITHIN_S
    while not certificate.exists():
        if time.monotonic() > deadline:
            log = install.log_dir / "agent.log"
            raise NotComing(f"the agent is not enrolled; {log} ends with:\n{tail(log, 6)}")
        time.sleep(0.2)
    return "enrolled" if asked else ""
