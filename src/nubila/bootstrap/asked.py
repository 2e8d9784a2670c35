"""What a person asks of `make` (NAME, PORT, SUBNET, LISTEN, CONTROL, ACCEPT and the clone), judged before all else.

Called by the preflight and by each word of bootstrap. A word that is left empty was not said, so that what an
installation has is told from what is asked of it. Standard library only: the preflight runs before Python packages.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

DEFAULT_NAME, DEFAULT_PORT, DEFAULT_SUBNET4 = "nubila", 8440, "10.77.0.0/24"
NAME = re.compile(r"[a-z][a-z0-9]{0,11}")  # as in the settings: it becomes part of OS names
FIRST_PORT, LAST_PORT = 1024, 65533  # below are root's, and the two after it are used too
PREFIXES = range(8, 30)
RANGES = tuple(IPv4Network(r) for r in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))
ACCEPTABLE = frozenset({"adopt", "firewall"})

# word -> what it does, for its help
WORDS: dict[str, str] = {
    "up": "Make this machine a cloud, or bring back what is missing of it ('make up').",
    "join": "Make this machine a node of a control plane elsewhere ('make join'); the join token comes on standard input.",
    "down": "Stop control plane, database and agent; VMs go on ('make down').",
    "destroy": "Remove all of an installation, its VMs too ('make destroy').",
    "dev": "A throw-away fabric with fake drivers, in this terminal ('make dev').",
    "preflight": "List all that stands against an installation here; it changes nothing ('make up' begins with it).",
}


@dataclass(frozen=True)
class Asked:
    name: str
    clone: Path
    port: int | None  # None: not said
    subnet4: str | None
    listen: str | None
    control: str | None
    accepted: frozenset[str]
    packages: bool


class Unusable(Exception):
    """What was asked cannot be meant; the text lists all of it, in words for people."""


def asked(word: str, argv: list[str]) -> Asked:
    """Raises Unusable; ends the process with a help page where one is wanted."""
    a = _parser(word).parse_args(argv)
    accepted = frozenset(a.accept.replace(",", " ").split())
    wrong = [*_name(a.name), *_port(a.port), *_subnet(a.subnet), *_listen(a.listen), *_control(a.control)]
    wrong += _accept(accepted)
    if wrong:
        raise Unusable("\n".join(["This cannot be meant; nothing was changed:", *(f"  - {line}" for line in wrong)]))
    return Asked(
        name=a.name,
        clone=a.clone.resolve(),
        port=int(a.port) if a.port else None,
        subnet4=a.subnet or None,
        listen=a.listen or None,
        control=a.control or None,
        accepted=accepted,
        packages=a.packages,
    )


def _parser(word: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"nubila {word}", description=WORDS[word], allow_abbrev=False)
    parser.add_argument("--name", default=DEFAULT_NAME, help=f"NAME of the installation; {DEFAULT_NAME} if not said")
    parser.add_argument("--port", default="", help=f"the first of three; {DEFAULT_PORT}, or as it was installed")
    parser.add_argument("--subnet", default="", help=f"of the first network; {DEFAULT_SUBNET4}, or as it was installed")
    parser.add_argument(
        "--listen", default="", help="an address of this machine, 0.0.0.0 for all; loopback if not said"
    )
    parser.add_argument("--control", default="", help="join: https://HOST:PORT of a control plane's internal API")
    parser.add_argument("--accept", default="", help=f"findings to go on despite: {', '.join(sorted(ACCEPTABLE))}")
    parser.add_argument("--packages", action="store_true", help="destroy: also the Debian packages that were installed")
    parser.add_argument("clone", type=Path, nargs="?", default=Path(), help="the clone of Nubila; here, if not said")
    return parser


def _name(name: str) -> Iterator[str]:
    if not NAME.fullmatch(name):
        yield f"NAME={name}: a name is 1 to 12 lower-case letters and digits, the first one a letter."


def _port(port: str) -> Iterator[str]:
    if port and not (re.fullmatch(r"[0-9]{1,5}", port) and FIRST_PORT <= int(port) <= LAST_PORT):
        yield f"PORT={port}: a number from {FIRST_PORT} to {LAST_PORT}; it and the two after it are listened on."


def _subnet(subnet: str) -> Iterator[str]:
    if not subnet:
        return
    example = "one looks like 10.78.0.0/24"
    try:
        net = ip_network(subnet, strict=False)
    except ValueError:
        yield f"SUBNET={subnet}: this is no network; {example}."
        return
    if not isinstance(net, IPv4Network):
        yield f"SUBNET={subnet}: a network of IPv4 is asked for; {example}. That of IPv6 is made from NAME."
    elif net.prefixlen not in PREFIXES:
        yield f"SUBNET={subnet}: a prefix from /{PREFIXES[0]} to /{PREFIXES[-1]} is needed; {example}."
    elif not any(net.subnet_of(r) for r in RANGES):
        yield f"SUBNET={subnet}: it must lie within {', '.join(map(str, RANGES))}."
    elif str(net) != subnet:
        yield f"SUBNET={subnet}: this is an address within a network; '{net}' may be meant."


def _listen(listen: str) -> Iterator[str]:
    try:
        ip_address(listen or "0.0.0.0")  # noqa: S104
    except ValueError:
        yield f"LISTEN={listen}: this is no address; one of this machine's, or 0.0.0.0 or :: for all of them, is meant."


def _control(control: str) -> Iterator[str]:
    try:
        parts = urlsplit(control)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if control and not (host and port and control == f"https://{parts.netloc}"):
        yield f"CONTROL={control}: where a control plane's internal API is, like https://10.0.0.1:8442, is meant."


def _accept(accepted: frozenset[str]) -> Iterator[str]:
    for word in sorted(accepted - ACCEPTABLE):
        yield f"ACCEPT={word}: this cannot be accepted; these can: {', '.join(sorted(ACCEPTABLE))}."
