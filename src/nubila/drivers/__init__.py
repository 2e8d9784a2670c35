"""What touches the world: hypervisors, disks, wires, image stores. Each kind has a contract, a fake and a registry.

Drivers are synchronous, idempotent and re-entrant: `ensure_x` makes the world so and may be killed and run again at any
point; `remove_x` on what is not there is a success; `observe` returns what is ours and, apart, what is foreign. They
know no database, no API and no other driver. The agent runs them in worker threads.
"""

from __future__ import annotations

import msgspec


class Leftover(msgspec.Struct, frozen=True, kw_only=True):
    """Something of ours that is no object by itself and outlived the one it belongs to, perhaps."""

    kind: str
    name: str
    owner: str  # the id of that object, or the last characters of it where names are short


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """One look for what `observe` does not show."""

    leftovers: tuple[Leftover, ...] = ()
    foreign: tuple[tuple[str, str], ...] = ()  # kind and name of what is not ours in our places


class DriverError(Exception):
    """The world refused. `again` says whether the same call may succeed later without a change of the wish."""

    def __init__(self, reason: str, *, again: bool = True):
        self.reason = reason
        self.again = again
        super().__init__(reason)


class CapabilityMissing(DriverError):
    """This driver cannot do that, and says so in its Capabilities."""

    def __init__(self, reason: str):
        super().__init__(reason, again=False)


class Full(DriverError):
    """There is no room for more bytes; the same call succeeds once something was freed."""


class Occupied(DriverError):
    """Another writer is at work there."""


class WrongOffset(DriverError):
    """What was sent does not follow what is there; `received` says where to go on."""

    def __init__(self, received: int):
        super().__init__(f"{received} bytes are here", again=False)
        self.received = received
