"""What may be wished of a port while its vm runs or not: its groups and its limits. Pure."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent import security_group
from nubila.intent.asking import Asking, Outcome, builtins
from nubila.intent.port_wish import leaving
from nubila.intent.vm import barred
from nubila.model import network, vm
from nubila.model.draft import Drafted, Effect, Row
from nubila.model.fields import Reference
from nubila.model.ids import text


class PortChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Change a port, on a running VM at once. Rates are seen from the guest; 0 takes a limit away."""

    security_groups: list[Reference] | None = None
    in_kbit: network.Kbit | None = None
    out_kbit: network.Kbit | None = None
    burst_kib: network.BurstKib | None = None


def change(body: PortChange, port: Row, view: dict[str, Any], groups: list[Row], asking: Asking) -> Outcome:
    """`view` is the vm's, `groups` are the project's."""
    row = view["vm"]
    wished = msgspec.convert(row["spec"], vm.Spec)
    if wished.gone:
        return errors.Conflict(f"VM '{row['name']}' is being removed.", state=row["state"])
    held = barred(row, wished) or leaving(port)
    if held is not None:
        return held
    was = msgspec.convert(port["spec"], network.PortSpec)
    given = {k: v for k in ("in_kbit", "out_kbit", "burst_kib") if (v := getattr(body, k)) is not None}
    becomes = msgspec.structs.replace(was, **given)
    shown: dict[str, Any] = {
        k: {"was": getattr(was, k), "becomes": v} for k, v in given.items() if getattr(was, k) != v
    }
    columns: Row = {} if becomes == was else {"spec": builtins(becomes)}
    draft, port_id, node_id = asking.draft(), UUID(port["id"]), UUID(port["node_id"])
    if body.security_groups is not None:
        chosen = security_group.chosen(body.security_groups, groups, "security_groups")
        if isinstance(chosen, errors.NubilaError):
            return chosen
        ids, before = [g["id"] for g in chosen], list(port["group_ids"])
        if ids != before:
            columns["group_ids"] = ids
            names = {g["id"]: g["name"] for g in groups}
            shown["groups"] = {"was": [names.get(i, i) for i in before], "becomes": [g["name"] for g in chosen]}
            for g in chosen:
                draft.rests_on("security_group", g, compare=False)
                draft.wakes(node_id, UUID(g["id"]), "security_group")
            draft.changes_groups(members=[*before, *ids])
    refers: dict[str, UUID | None] = {"port": port_id}
    if not columns:
        return Drafted(draft=draft, status=200, refers=refers)
    draft.changes("port", port, generation=port["generation"] + 1, **columns)
    draft.changes("vm", row, generation=row["generation"] + 1)
    draft.wakes(node_id, UUID(row["id"]))
    effect = Effect(action="change", kind="port", id=text("port", port_id), name=port["name"], details=shown)
    return Drafted(draft=draft, status=200, refers=refers, hints=[f"node:{node_id}"], effects=[effect])
