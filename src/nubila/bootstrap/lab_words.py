"""`nubila lab`: its words, as people say them. Each names a machine of the lab by its short name."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

from nubila.bootstrap import lab_faults, lab_world
from nubila.bootstrap.lab import HOSTS, NETWORK, lab_down, lab_up, machines
from nubila.bootstrap.lab_world import LabFailure, Machine

PREFIX_MAX = 24  # addresses of machines are numbers below 200
NAMES = [h.short for h in HOSTS]
EXAMPLES = """examples:
  nubila lab up                        make it, or bring back what is missing ('make lab')
  nubila lab run h1 ip addr            run a command on a machine
  nubila lab freeze h2                 stop everything there, QEMU too; 'thaw h2' lets it go on
  nubila lab cut h2                    cut its link; 'heal' mends all links
  nubila lab cut h2 --to cp --hears-only   what cp sends to h2 is lost, not what h2 sends
  nubila lab kill h3                   end all its processes, as a power cut would; 'lab up' boots it again
  nubila lab down                      remove all of it ('make lab-down')
"""


def lab(argv: list[str]) -> int:
    """The word `lab`. Returns the exit code."""
    a = _parser().parse_args(argv)
    if os.geteuid() != 0:
        print("You are not root: run 'sudo make lab'; what acts on a lab is root's too.", file=sys.stderr)
        return 1
    os.umask(0o022)
    clone = Path(a.clone).resolve()
    there = machines(a.lab)
    match a.word:
        case "up":
            return lab_up(a.lab, clone, a.network)
        case "down":
            return lab_down(a.lab, clone)
    for m in there.values():
        if not lab_world.exists(m.name):
            raise LabFailure(f"There is no {m.name}: 'make lab' makes it.")
    return _act(a, there)


def _act(a: argparse.Namespace, there: dict[str, Machine]) -> int:
    match a.word:
        case "run":
            return subprocess.run((*there[a.machine].inside, *a.command), check=False).returncode
        case "cut":
            others = tuple(there[o] for o in (a.to or NAMES) if o != a.machine)
            lab_faults.cut(there[a.machine], others, sends=not a.hears_only, hears=not a.sends_only)
        case "heal":
            lab_faults.heal(a.lab)
        case "freeze" | "thaw":
            lab_world.freeze(there[a.machine], frozen=a.word == "freeze")
        case "kill":
            print(f"{lab_faults.kill(there[a.machine])} processes ended.")
    return 0


def _network(text: str) -> IPv4Network:
    network = IPv4Network(text)
    if network.prefixlen > PREFIX_MAX:
        raise ValueError(text)
    return network


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nubila lab", description="Several machines on this one, for trying what only a fleet shows.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--lab", default="lab", help="name of the lab; 'lab' if not said")
    parser.add_argument("--clone", default=".", help="the clone of Nubila; here, if not said")
    words = parser.add_subparsers(dest="word", required=True, metavar="WORD")
    up = words.add_parser("up", help="make the lab, or bring back what is missing")
    up.add_argument("--network", type=_network, default=NETWORK, help=f"of the common segment; {NETWORK} if not said")
    words.add_parser("down", help="remove all of it")
    run = words.add_parser("run", help="run a command on a machine")
    cut = words.add_parser("cut", help="cut a machine's link to the others, or to some")
    words.add_parser("heal", help="mend all links")
    freeze = words.add_parser("freeze", help="stop all processes of a machine, QEMU too")
    thaw = words.add_parser("thaw", help="let a frozen machine go on")
    kill = words.add_parser("kill", help="end all processes of a machine at once")
    for one in (run, cut, freeze, thaw, kill):
        one.add_argument("machine", choices=NAMES)
    run.add_argument("command", nargs=argparse.REMAINDER, help="with its words")
    cut.add_argument("--to", action="append", choices=NAMES, help="only this one; repeatable")
    one_way = cut.add_mutually_exclusive_group()
    one_way.add_argument("--sends-only", action="store_true", help="what it sends is lost, not what it hears")
    one_way.add_argument("--hears-only", action="store_true", help="what it hears is lost, not what it sends")
    return parser
