"""What a vm's lane does with ports that come and go after its start. PURE, a part of `plan`.

On a fresh answer only. Rules and tap are there before an interface is plugged in, since `plan` serves first; a wire is
taken away only after the vm has let go of the interface.
"""

from __future__ import annotations

from nubila.agent.known import Facts, Trail, port_key
from nubila.agent.steps import DropPort, Network, PlugPort, Port, Step, Wait
from nubila.protocol import Nic, Vm

AGAIN_S = 5.0  # after a guest that did not let go, or a driver that refused


def keep(wanted: Vm, facts: Facts, trail: Trail, now_s: float) -> list[Step]:
    """For a vm that runs or not: what it shall not have goes; what it shall have is plugged in while it runs."""
    todo: list[tuple[Nic, Step]] = [(n, DropPort(n)) for n in wanted.unwired if port_key(n) not in facts.dropped]
    if facts.running:
        todo += [(n, PlugPort(n)) for n in wanted.wired if not holds(facts, n)]
    steps: list[Step] = []
    waits: list[float] = []
    for nic, step in todo:
        tried = trail.ports.get(nic.port_id)
        if tried is not None and tried.ok is False and now_s < tried.at_s + AGAIN_S:
            waits.append(tried.at_s + AGAIN_S)
        else:
            steps.append(step)
    return steps or ([Wait(min(waits))] if waits else [])


def bind(wanted: Vm, facts: Facts) -> list[Step]:
    """For a vm that is off: what was unassigned is let through no more, should its tap be there."""
    steps: list[Step] = []
    for nic in wanted.wired:
        if nic.leaving and facts.nics.get(port_key(nic)) != nic:
            if nic.network.network_id not in facts.bridges:
                steps.append(Network(nic.network))
            steps.append(Port(nic))
    return steps


def holds(facts: Facts, nic: Nic) -> bool:
    """Whether the running domain has the interface; of a driver that does not tell, what it was started with counts."""
    has = None if facts.domain is None else facts.domain.nics
    return has is None or nic.mac.lower() in has


def bound(facts: Facts, nic: Nic) -> bool:
    """Its tap, and the rules that bind it, are as they are wished now."""
    return port_key(nic) in facts.taps and facts.nics.get(port_key(nic)) == nic
