"""VMs whose guest shut itself down: the wish follows, so that nobody starts them behind the guest's back. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from nubila.intent.asking import Asking, builtins
from nubila.model import vm
from nubila.model.draft import Draft, Row


class FollowGuest(msgspec.Struct, frozen=True):
    """Write power off into the wish of this vm."""

    vm: dict[str, Any]


def step(snapshot: Sequence[Row], now: datetime) -> list[FollowGuest]:
    return [
        FollowGuest(row)
        for row in snapshot
        if row["state"] == vm.State.STOPPED and row["spec"]["power"] == vm.Power.ON.value
    ]


def draft(command: FollowGuest, asking: Asking) -> Draft:
    row = command.vm
    spec = msgspec.structs.replace(msgspec.convert(row["spec"], vm.Spec), power=vm.Power.OFF, suspended=False)
    made = asking.draft()
    made.changes("vm", row, version=True, spec=builtins(spec), generation=row["generation"] + 1)
    made.wakes(UUID(row["node_id"]), UUID(row["id"]))
    return made
