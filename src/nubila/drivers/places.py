"""Directories that unprivileged processes of ours must get through: QEMU under the vm's uid, dnsmasq under its own."""

from __future__ import annotations

from pathlib import Path

from nubila.drivers import DriverError

_OTHERS_SEARCH = 0o001


def require_searchable(directory: Path) -> None:
    """DriverError naming the first directory on the way that others may not search."""
    resolved = directory.resolve()
    for place in (*reversed(resolved.parents), resolved):
        if not place.stat().st_mode & _OTHERS_SEARCH:
            raise DriverError(f"{place} must be searchable by others (mode 0711) for what lies below", again=False)
