"""What can happen to a machine of the lab, by command: links cut (both ways or one), everything frozen, everything killed.

Called by `nubila lab`. Each fault acts from outside of the machine, and its processes are told nothing. Invariant: `heal`
and `thaw` take back what `cut` and `freeze` did.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess

from nubila.bootstrap import lab_world
from nubila.bootstrap.facts import program
from nubila.bootstrap.lab_world import LabFailure, Machine

TABLE = "faults"


def cut(machine: Machine, others: tuple[Machine, ...], *, sends: bool = True, hears: bool = True) -> None:
    """From now on the segment drops what it sends to the others, or what they send to it, or both."""
    pairs = [(machine.short, o.short) for o in others if sends] + [(o.short, machine.short) for o in others if hears]
    elements: list[dict[str, object]] = [{"add": {"element": _element(pair)}} for pair in pairs]
    _nft(machine.lab, [*_table(), *elements])


def heal(lab: str) -> None:
    """All links pass everything again."""
    _nft(lab, [*_table(), {"flush": {"set": {"family": "bridge", "table": TABLE, "name": "cut"}}}])


def kill(machine: Machine) -> int:
    """End every process of the machine at once, as a power cut would; returns how many there were."""
    killed: set[int] = set()
    lab_world.freeze(machine, frozen=True)  # none sees another one end
    for pid in lab_world.processes(machine):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    lab_world.freeze(machine, frozen=False)
    return len(killed)


def _element(pair: tuple[str, str]) -> dict[str, object]:
    return {"family": "bridge", "table": TABLE, "name": "cut", "elem": [{"concat": list(pair)}]}


def _table() -> list[dict[str, object]]:
    """The segment's own table: drops what goes from one link to another as a set of pairs says."""
    of = {"family": "bridge", "table": TABLE}
    here = [{"meta": {"key": "iifname"}}, {"meta": {"key": "oifname"}}]
    chain = {**of, "name": "forward", "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}
    rule = {**of, "chain": "forward", "expr": [
        {"match": {"op": "in", "left": {"concat": here}, "right": "@cut"}}, {"drop": None},
    ]}  # fmt: skip
    return [
        {"add": {"table": {"family": "bridge", "name": TABLE}}},
        {"add": {"set": {**of, "name": "cut", "type": ["ifname", "ifname"]}}},
        {"add": {"chain": chain}},
        {"flush": {"chain": {**of, "name": "forward"}}},
        {"add": {"rule": rule}},
    ]


def _nft(lab: str, commands: list[dict[str, object]]) -> None:
    path, ip = program("nft"), program("ip")
    if path is None or ip is None:
        raise LabFailure("the program nft or ip is missing")
    run = subprocess.run(
        (ip, "netns", "exec", lab_world.segment(lab), path, "-j", "-f", "-"),
        input=json.dumps({"nftables": commands}), capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    if run.returncode != 0:
        raise LabFailure(f"nft refused: {run.stderr.strip()[-300:]}")
