"""One rig per hypervisor driver, by its name in the registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from driver_rig import Rig
from driver_rig_fake import FakeRig
from driver_rig_libvirt import LibvirtRig, LxcRig

RIGS: dict[str, Callable[[Path], Rig]] = {"fake": FakeRig, "libvirt": LibvirtRig, "lxc": LxcRig}
MARKS: dict[str, list[pytest.MarkDecorator]] = {"fake": [], "lxc": [pytest.mark.real, pytest.mark.long]}
