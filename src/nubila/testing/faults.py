"""What goes wrong: a literal table of faults, and the script that a seed makes of it. Called by `schedule`.

Each fault is over by itself after a while, and `heal` ends them all: then everything has to come to rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from nubila.drivers.hypervisor.fake_world import FakeDomain
from nubila.drivers.storage.fake import FakeVolume
from nubila.model.ids import text
from nubila.testing.fleet import Fleet
from nubila.testing.host import Host
from nubila.testing.judge import Judge
from nubila.testing.net import Line

Fault = Callable[["Ground"], "Host | None"]


class Ground:
    """Where faults happen. `met` counts which operations were open when a kind of fault came."""

    def __init__(self, fleet: Fleet, judge: Judge):
        self.fleet, self.judge, self.stage = fleet, judge, fleet.stage
        self.draw = fleet.stage.random
        self.met: Counter[tuple[str, str]] = Counter()
        self.done: Counter[str] = Counter()

    def strike(self, kind: str) -> None:
        """One fault, now."""
        self.stage.process = None
        host = FAULTS[kind](self)
        self.done[kind] += 1
        self.judge.tell("**", f"{kind}{'' if host is None else ' on ' + host.name}")
        for o in self.fleet.tables.rows["operation"]:
            if o["ended_at"] is None and (host is None or o["node_id"] == str(host.node_id)):
                self.met[kind, f"{o['spec']['verb']} {o['resource_kind']}"] += 1

    def later(self, low_s: float, high_s: float, do: Callable[..., Any], *args: Any) -> None:
        self.stage.loop.call_later(self.draw.uniform(low_s, high_s), do, *args)

    def host(self) -> Host:
        """One that has something to do, if there is one."""
        busy = {o["node_id"] for o in self.fleet.tables.rows["operation"] if o["ended_at"] is None}
        found = [h for h in self.fleet.hosts if str(h.node_id) in busy] or self.fleet.hosts
        return self.draw.choice(found if self.draw.random() < 0.8 else self.fleet.hosts)

    def heal(self) -> None:
        """All faults are over."""
        self.stage.process = None
        self.fleet.tables.away, self.fleet.tables.unknown = False, 0
        self.fleet.bus.loss = 0.0
        for control in self.fleet.controls:
            _revive(control)
        for host in self.fleet.hosts:
            host.ends.clear()
            self.fleet.net.lines[host.name] = Line()
            for world in (host.worlds.domains, host.worlds.disks, host.worlds.wires):
                world.script.clear()
            host.worlds.domains.clinging.clear()
            self.thaw(host)

    def thaw(self, host: Host) -> None:
        if host.frozen:
            self.judge.thawed_s[host.name] = self.stage.monotonic()
            self.judge.tell("**", f"{host.name} is thawed")
            host.thaw()


def _revive(control: Any) -> None:
    if not control.alive:
        control.start()


def _killed(g: Ground) -> Host:
    host = g.host()
    host.kill()
    return host


def _ends(when: str) -> Fault:
    def strike(g: Ground) -> Host:
        host = g.host()
        host.ends["*"] = when
        return host

    return strike


def _frozen(g: Ground) -> Host:
    host = g.host()
    host.freeze()
    g.later(5, 150, g.thaw, host)
    return host


def _power_lost(g: Ground) -> Host:
    host = g.host()
    host.lose_power(g.draw.uniform(5, 60))
    return host


def _line(low_s: float = 30, high_s: float = 150, **changes: Any) -> Fault:
    def strike(g: Ground) -> Host:
        host = g.host()
        line = g.fleet.net.line(host.name)
        for field, value in changes.items():
            setattr(line, field, value)
        g.later(low_s, high_s, _mend, line, tuple(changes))
        return host

    return strike


def _mend(line: Line, fields: tuple[str, ...]) -> None:
    for field in fields:
        setattr(line, field, getattr(Line(), field))


def _driver(mishap: Callable[[Any, Ground], None]) -> Fault:
    def strike(g: Ground) -> Host:
        host = g.host()
        world = g.draw.choice((host.worlds.domains, host.worlds.domains, host.worlds.disks, host.worlds.wires))
        mishap(world.script, g)
        return host

    return strike


def _guest(befall: Callable[[Any, str], None]) -> Fault:
    def strike(g: Ground) -> Host:
        host = g.draw.choice(g.fleet.hosts)
        running = [d.vm_id for d in host.worlds.domains.domains.all() if d.running]
        if running:
            befall(host.worlds.domains, g.draw.choice(running))
        return host

    return strike


def _control_killed(g: Ground) -> None:
    alive = [c for c in g.fleet.controls if c.alive]
    if alive:
        control = g.draw.choice(alive)
        control.kill()
        g.later(1, 20, _revive, control)


def _control_down(g: Ground) -> None:
    for control in g.fleet.controls:
        if control.alive:
            control.kill()
        g.later(60, 150, _revive, control)


def _bus_cut(g: Ground) -> None:
    g.fleet.bus.loss = 1.0
    g.later(20, 120, setattr, g.fleet.bus, "loss", 0.0)


def _bus_lossy(g: Ground) -> None:
    g.fleet.bus.loss = 0.5
    g.later(20, 120, setattr, g.fleet.bus, "loss", 0.0)


def _database_away(g: Ground) -> None:
    g.fleet.tables.away = True
    g.later(2, 30, setattr, g.fleet.tables, "away", False)


def _commit_unknown(g: Ground) -> None:
    g.fleet.tables.unknown += g.draw.randint(1, 4)


def _litter(g: Ground) -> Host:
    """Something of ours that no row knows, as an older agent may have left it."""
    host = g.draw.choice(g.fleet.hosts)
    volume_id = text("volume", g.fleet.mint())
    host.worlds.disks.volumes.put(volume_id, FakeVolume(volume_id=volume_id, format="qcow2", size_gib=1))
    host.worlds.disks.used_gib += 1
    vm_id = text("vm", g.fleet.mint())
    host.worlds.domains.run(FakeDomain(vm_id=vm_id, epoch=1))
    return host


def _clock_jump(g: Ground) -> Host:
    host = g.draw.choice(g.fleet.hosts)
    host.wall_off_s += g.draw.choice((-3600.0, 3600.0))
    if host.process is not None:
        host.process.wall_off_s = host.wall_off_s
    return host


FAULTS: dict[str, Fault] = {
    "agent-killed": _killed,
    "agent-killed-before-effect": _ends("before"),
    "agent-killed-after-effect": _ends("after"),
    "host-frozen": _frozen,
    "host-power-lost": _power_lost,
    "cut-both-ways": _line(cut_to=True, cut_from=True),
    "cut-to-control": _line(cut_to=True),
    "cut-from-control": _line(cut_from=True),
    "messages-lost": _line(loss=0.3, slow_s=0.5),
    "messages-repeated": _line(60, 300, repeat=0.5),
    "driver-fails": _driver(lambda script, g: script.fail("*", g.draw.randint(1, 3))),
    "driver-loses-reply": _driver(lambda script, g: script.lose_reply("*", g.draw.randint(1, 3))),
    "driver-hangs": _driver(lambda script, g: script.delay("*", g.draw.uniform(1, 45), g.draw.randint(1, 2))),
    "guest-shuts-down": _guest(lambda world, vm_id: world.guest_shutdown(vm_id)),
    "guest-crashes": _guest(lambda world, vm_id: world.crash(vm_id)),
    "guest-panics": _guest(lambda world, vm_id: world.panic(vm_id)),
    "guest-is-deaf": _guest(lambda world, vm_id: world.deaf.add(vm_id)),
    "guest-clings-to-disks": _guest(lambda world, vm_id: world.clinging.add(vm_id)),
    "control-killed": _control_killed,
    "control-down": _control_down,
    "hints-cut": _bus_cut,
    "hints-lost": _bus_lossy,
    "database-away": _database_away,
    "commit-unknown": _commit_unknown,
    "clock-jump": _clock_jump,
    "litter-found": _litter,
}
