"""Ports that come and go, in the agent: the pure plan, what it reports, and the order in which a wire is taken away."""

from __future__ import annotations

from typing import Any

import msgspec
from agent_control import vm

from nubila import protocol
from nubila.agent import account, effects, metadata_openstack, plan, plan_port, seed
from nubila.agent import steps as p
from nubila.agent.known import Facts, Record, Trail, by_dhcp, port_key
from nubila.drivers.hypervisor.base import Found


def another(wanted: protocol.Vm, number: int, **change: Any) -> protocol.Nic:
    (first,) = wanted.nics
    made = msgspec.structs.replace(
        first,
        port_id=f"port-{number:026d}",
        index=number,
        mac=f"52:00:00:00:00:0{number}",
        addresses=(f"10.9.0.10{number}",),
    )
    return msgspec.structs.replace(made, **change)


def facts_of(wanted: protocol.Vm, *, running: bool = True) -> Facts:
    """All is as wished, but for what the tests take away."""
    macs = tuple(n.mac for n in wanted.wired)
    facts = Facts(seen=True, domain=Found(vm_id=wanted.vm_id, epoch=1, running=running, nics=macs if running else None))
    for n in wanted.wired:
        facts.taps[port_key(n)], facts.nics[port_key(n)] = f"tap{n.index}", n
        facts.bridges[n.network.network_id] = "bridge"
    for d in wanted.disks:
        facts.volumes[d.volume_id] = "/x"
    return facts


def planned(wanted: protocol.Vm, facts: Facts, trail: Trail | None = None, now_s: float = 0.0, **how: Any) -> list[Any]:
    record = Record(starts=wanted.starts)
    return plan.plan(wanted, facts, record, trail or Trail(), now_s, **{"fresh": True, **how})


def test_a_new_port_is_bound_before_it_is_plugged_in_and_an_old_one_is_not_plugged_out() -> None:
    wanted = vm()
    facts = facts_of(wanted)
    new = another(wanted, 1)
    wanted = msgspec.structs.replace(wanted, nics=(*wanted.nics, new))
    assert planned(wanted, facts) == [p.Port(new), p.PlugPort(new)]
    assert planned(wanted, facts, fresh=False) == [p.Port(new)]  # serving is always right
    trail = Trail()
    effects.EFFECTS[p.Port](facts, trail, wanted, p.Port(new), "tap1", 0.0)
    assert not facts.unwired
    assert planned(wanted, facts) == [p.PlugPort(new)]
    effects.EFFECTS[p.PlugPort](facts, trail, wanted, p.PlugPort(new), "no slot is free", 10.0)
    assert planned(wanted, facts, trail, 11.0) == [p.Wait(15.0)]
    assert planned(wanted, facts, trail, 15.0) == [p.PlugPort(new)]
    assert _said(wanted, facts, trail)[new.port_id] == (False, "no slot is free")
    effects.EFFECTS[p.PlugPort](facts, trail, wanted, p.PlugPort(new), None, 16.0)
    assert planned(wanted, facts, trail, 17.0) == []
    assert _said(wanted, facts, trail)[new.port_id] == (True, None)


def test_a_lost_tap_of_a_port_that_is_plugged_is_rewired() -> None:
    wanted = vm()
    facts = facts_of(wanted)
    (nic,) = wanted.nics
    facts.taps.clear()
    assert planned(wanted, facts) == [p.Port(nic), p.Rewire()]


def test_a_port_goes_only_on_a_fresh_answer_and_is_said_gone_only_when_it_is() -> None:
    wanted = vm()
    going = another(wanted, 1)
    facts = facts_of(msgspec.structs.replace(wanted, nics=(*wanted.nics, going)))
    wanted = msgspec.structs.replace(wanted, nics=(*wanted.nics, msgspec.structs.replace(going, gone=True)))
    (nic,) = wanted.unwired
    assert planned(wanted, facts, fresh=False) == []
    assert planned(wanted, facts) == [p.DropPort(nic)]
    trail = Trail()
    effects.EFFECTS[p.DropPort](facts, trail, wanted, p.DropPort(nic), "the guest has not let go", 10.0)
    report = account.report(wanted, facts, Record(), trail, account.Work())
    assert report.ports_gone == ()
    assert _said(wanted, facts, trail)[nic.port_id] == (False, "the guest has not let go")
    assert planned(wanted, facts, trail, 11.0) == [p.Wait(15.0)]
    effects.EFFECTS[p.DropPort](facts, trail, wanted, p.DropPort(nic), None, 16.0)
    report = account.report(wanted, facts, Record(), trail, account.Work())
    assert [g.port_id for g in report.ports_gone] == [nic.port_id]
    assert report.ports_active == (wanted.nics[0].port_id,)
    assert planned(wanted, facts, trail, 17.0) == []
    new_agent = facts_of(wanted)
    assert planned(wanted, new_agent) == [p.DropPort(nic)]  # it cannot know, so it looks again


def test_a_vm_that_is_off_loses_its_port_too_also_one_that_shut_itself_down() -> None:
    wanted = vm()
    nic = another(wanted, 1, gone=True)
    wanted = msgspec.structs.replace(wanted, nics=(*wanted.nics, nic))
    facts = facts_of(wanted, running=False)
    assert planned(msgspec.structs.replace(wanted, power="off"), facts) == [p.DropPort(nic)]
    halted = Record(starts=wanted.starts, halted=wanted.starts)
    assert plan.plan(wanted, facts, halted, Trail(), 0.0, fresh=True) == [p.DropPort(nic)]
    assert plan.plan(wanted, facts, halted, Trail(), 0.0, fresh=False, alone=True) == []


def test_an_address_that_leaves_is_bound_out_also_while_the_vm_is_off() -> None:
    wanted = vm(power="off")
    (nic,) = wanted.nics
    facts = facts_of(wanted, running=False)
    less = msgspec.structs.replace(nic, addresses=nic.addresses[:1], leaving=nic.addresses[1:])
    wanted = msgspec.structs.replace(wanted, nics=(less,))
    assert _said(wanted, facts, Trail())[nic.port_id] == (False, None)
    assert planned(wanted, facts) == [p.Port(less)]
    effects.EFFECTS[p.Port](facts, Trail(), wanted, p.Port(less), "tap0", 0.0)
    assert _said(wanted, facts, Trail())[nic.port_id] == (True, None)
    assert planned(wanted, facts) == []


def test_a_guest_is_told_its_further_addresses_and_dhcp_gives_the_first() -> None:
    wanted = vm()
    (nic,) = wanted.nics
    more = msgspec.structs.replace(nic, addresses=(*nic.addresses, "10.9.0.77", "10.9.0.3"))
    wanted = msgspec.structs.replace(wanted, nics=(more,))
    assert by_dhcp(more) == {nic.addresses[0]}
    config = msgspec.json.decode(seed.network_config(wanted))["ethernets"]["nic0"]
    assert config["dhcp4"] is True
    assert {"10.9.0.77/16", "10.9.0.3/16"} <= set(config["addresses"])
    said = msgspec.json.decode(metadata_openstack.files(wanted, "latest", zone="z")["network_data.json"])["networks"]
    assert [n["type"] for n in said if n.get("ip_address", "").startswith("10.9")] == ["ipv4", "ipv4"]
    assert [n["type"] for n in said].count("ipv4_dhcp") == 1


def test_what_a_driver_does_not_tell_counts_as_held() -> None:
    wanted = vm()
    facts = facts_of(wanted)
    facts.domain = Found(vm_id=wanted.vm_id, epoch=1, running=True)
    assert plan_port.holds(facts, wanted.nics[0])
    assert planned(wanted, facts) == []


def _said(wanted: protocol.Vm, facts: Facts, trail: Trail) -> dict[str, tuple[bool, str | None]]:
    report = account.report(wanted, facts, Record(), trail, account.Work())
    return {r.port_id: (r.held, r.reason) for r in report.ports}
