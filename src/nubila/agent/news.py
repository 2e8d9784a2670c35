"""Which wishes of an answer are news, and what an answer with everything no longer holds. Called by the core when the link
brings one; writes the wishes, and touches nothing else.

Invariant: what a restored database has forgotten is parked, kept as it is and shown, and not dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nubila.agent.wish import Wishes
from nubila.protocol import Vm, Volume, Wanted

FORGOTTEN = "unknown since the database was restored"


class News:
    def __init__(self, wishes: Wishes, added: Callable[[Vm], None], log: Any):
        """`added` is told of each vm whose wish is new."""
        self._wishes, self._added, self._log = wishes, added, log
        self.parked: dict[str, str] = {}  # what a restored database forgot, and how it is known

    def take(self, wanted: Wanted) -> list[Vm]:
        """Keep what is new. Returns the vms that the answer may speak for."""
        vms = [vm for vm in wanted.vms if not self._is_behind(vm)]
        for vm in vms:
            if self._is_news(vm, wanted.fabric_epoch):
                self._wishes.put(vm, wanted.fabric_epoch)
                self._added(vm)
                self.parked.pop(vm.vm_id, None)
        for volume in wanted.volumes:
            if self._is_volume_news(volume, wanted.fabric_epoch):
                self._wishes.put_volume(volume, wanted.fabric_epoch)
        return vms

    def unwanted_vms(self, wanted: Wanted) -> list[str]:
        """After an answer with everything: what it does not hold is not wanted. If the database is a restored one, it may
        just not know it any more: then it is kept as it is, and shown."""
        held = {vm.vm_id for vm in wanted.vms}
        missing = {i: e for i, e in self._wishes.entries.items() if i not in held}
        return [i for i, e in missing.items() if e.vm.gone or not self._park("vm", i, e.fabric_epoch, wanted)]

    def unwanted_volumes(self, wanted: Wanted) -> list[str]:
        """As for vms."""
        held = {v.volume_id for v in wanted.volumes}
        missing = {i: e for i, e in self._wishes.volumes.items() if i not in held}
        return [i for i, e in missing.items() if e.volume.gone or not self._park("volume", i, e.fabric_epoch, wanted)]

    def _park(self, kind: str, its_id: str, fabric_epoch: int, wanted: Wanted) -> bool:
        """Keep it, if the database was restored since the wish was last confirmed."""
        if fabric_epoch >= wanted.fabric_epoch:
            return False
        self.parked[its_id] = FORGOTTEN
        self._log.warning(f"{kind}.parked", **{f"{kind}_id": its_id}, reason=FORGOTTEN)
        return True

    def _is_news(self, vm: Vm, fabric_epoch: int) -> bool:
        """A late copy of an older wish is no news."""
        known = self._wishes.entries.get(vm.vm_id)
        if known is None or fabric_epoch > known.fabric_epoch:
            return True
        return (vm.epoch, vm.generation) >= (known.vm.epoch, known.vm.generation)

    def _is_volume_news(self, volume: Volume, fabric_epoch: int) -> bool:
        known = self._wishes.volumes.get(volume.volume_id)
        if known is None or fabric_epoch > known.fabric_epoch:
            return True
        return (volume.generation, volume.epoch) >= (known.volume.generation, known.volume.epoch)

    def _is_behind(self, vm: Vm) -> bool:
        """A restored database may have forgotten that the right to act moved: whoever holds the newer one keeps it, and
        the vm is left as it is until somebody decides."""
        known = self._wishes.entries.get(vm.vm_id)
        if known is None or vm.epoch >= known.vm.epoch:
            return False
        if vm.vm_id not in self.parked:
            reason = f"it runs here under epoch {known.vm.epoch}, and the restored database says {vm.epoch}"
            self.parked[vm.vm_id] = reason
            self._log.warning("vm.parked", vm_id=vm.vm_id, reason=reason)
        return True
