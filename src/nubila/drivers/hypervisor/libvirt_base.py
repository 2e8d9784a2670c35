"""What the two drivers over libvirt do alike: they share a libvirtd, the marks of what is ours, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import libvirt

from nubila.drivers.hypervisor.base import Found, Observed
from nubila.drivers.hypervisor.console_log import read_log
from nubila.drivers.hypervisor.libvirt_power import Power
from nubila.drivers.hypervisor.libvirt_session import Session

T = TypeVar("T")


class OverLibvirt:
    def __init__(self, session: Session, power: Power):
        self.daemons, self.session, self._power = session.daemons, session, power
        libvirt.registerErrorHandler(lambda *_: None, None)  # it would write each error to stderr

        self.start = power.start
        self.ask_stop = power.ask_stop
        self.ask_reboot = power.ask_reboot
        self.suspend = power.suspend
        self.resume = power.resume
        self.destroy = power.destroy

    def read_console(self, vm_id: str, max_bytes: int) -> bytes:
        return read_log(self.session.console(vm_id), max_bytes)

    def close(self) -> None:
        self.session.close()

    def _sorted(
        self, told: Iterable[tuple[libvirt.virDomain, T]], found: Callable[[libvirt.virDomain, T], Found]
    ) -> Observed:
        """Our domains, each with what libvirt told of it, and the names of the others."""
        ours: list[Found] = []
        foreign: list[str] = []
        for domain, about in told:
            if self.session.is_ours(domain):
                ours.append(found(domain, about))
            else:
                foreign.append(domain.name())
        return Observed(domains=tuple(ours), foreign=tuple(foreign))
