"""Any object as its reader sees it: one literal table kind -> how it is shown beyond the common shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec

from nubila.api.context import ApiCall, is_operator
from nubila.api.noun.operation import operation_shown
from nubila.api.noun.vm import vm_shown
from nubila.model import node
from nubila.model.ids import host_handle, text
from nubila.represent import json
from nubila.store.database import Record


def _image(call: ApiCall, row: Record) -> dict[str, Any]:
    return json.resource("image", row, viewer=call.viewer, sha256=row["sha256"])


def _token(call: ApiCall, row: Record) -> dict[str, Any]:
    return json.resource(
        "token", row, viewer=call.viewer, plane=row["plane"], account=row["account_name"], project=row["project_name"]
    )


def _port(call: ApiCall, row: Record) -> dict[str, Any]:
    extras: dict[str, Any] = {
        "network_id": text("network", row["network_id"]),
        "vm_id": text("vm", row["vm_id"]),
        "mac": row["mac"],
        "observed_generation": row["observed_generation"],
    }
    extras |= {"addresses": (row["addresses"] or "").split(), "vm": row["vm_name"], "network": row["network_name"]}
    extras |= {
        "groups": (row["group_names"] or "").split(),
        "group_ids": [text("security_group", g) for g in row["group_ids"]],
    }
    if is_operator(call):
        extras |= {"epoch": row["epoch"], "node_id": text("node", row["node_id"])}
    return json.resource("port", row, viewer=call.viewer, **extras)


def _volume(call: ApiCall, row: Record) -> dict[str, Any]:
    extras: dict[str, Any] = {
        "image_id": None if row["image_id"] is None else text("image", row["image_id"]),
        "vm_id": None if row["vm_id"] is None else text("vm", row["vm_id"]),
        "vm": row["vm_name"],
        "detaching": row["detaching"],
        "host": host_handle(row["project_id"], row["node_id"]),
    }
    if is_operator(call):
        extras |= {"node_id": text("node", row["node_id"]), "epoch": row["epoch"]}
    return json.resource("volume", row, viewer=call.viewer, **extras)


def _snapshot(call: ApiCall, row: Record) -> dict[str, Any]:
    extras: dict[str, Any] = {"volume_id": text("volume", row["volume_id"]), "volume": row["volume_name"]}
    return json.resource("snapshot", row, viewer=call.viewer, **extras)


def _node(call: ApiCall, row: Record) -> dict[str, Any]:
    silent = row["silent_s"]
    extras: dict[str, Any] = {
        "last_report_age_s": None if silent is None or call.as_of else round(silent, 1),
        "inventory": None if row["inventory"] is None else msgspec.Raw(row["inventory"].encode()),
        "holds": None if row["holds"] is None else msgspec.Raw(row["holds"].encode()),
    }
    spec = msgspec.json.decode(row["spec"], type=node.Spec)
    status = None if row["status"] is None else msgspec.json.decode(row["status"], type=node.Status)
    extras["addresses"] = {} if status is None else node.addresses(spec, status)
    if row["state"] == node.State.ENROLLING:
        extras["waits_for"] = node.waits_for(spec, status)
    if (
        call.as_of is None
        and node.State(row["state"]) not in node.UNHEARD
        and (silent is None or silent > node.SILENT_AFTER_S)
    ):
        extras |= {"state": "unknown", "last_state": row["state"]}
    return json.resource("node", row, viewer=call.viewer, **extras)


def _network(call: ApiCall, row: Record) -> dict[str, Any]:
    return json.resource("network", row, viewer=call.viewer, subnets=msgspec.Raw((row["subnets"] or "[]").encode()))


def _plain(kind: str) -> Callable[[ApiCall, Record], dict[str, Any]]:
    def show(call: ApiCall, row: Record) -> dict[str, Any]:
        return json.resource(kind, row, viewer=call.viewer)

    return show


def _drift(call: ApiCall, row: Record) -> dict[str, Any]:
    extras: dict[str, Any] = {
        "node_id": text("node", row["node_id"]),
        "node": row["node_name"],
        "vm_id": None if row["vm_id"] is None else text("vm", row["vm_id"]),
        "vm": row["vm_name"],
        "since": row["created_at"],
    }
    return json.resource("drift", row, viewer=call.viewer, **extras)


SHOWN: dict[str, Callable[[ApiCall, Record], dict[str, Any]]] = {
    "vm": vm_shown,
    "operation": operation_shown,
    "image": _image,
    "token": _token,
    "port": _port,
    "volume": _volume,
    "snapshot": _snapshot,
    "node": _node,
    "network": _network,
    "drift": _drift,
    "security_group": _plain("security_group"),
    "keypair": _plain("keypair"),
    "flavor": _plain("flavor"),
    "project": _plain("project"),
    "user": _plain("user"),
    "operator": _plain("operator"),
}


async def one_shown(call: ApiCall, kind: str, object_id: UUID) -> dict[str, Any] | None:
    if kind not in SHOWN:
        return {"id": text(kind, object_id)}
    row = await call.context.resources.one(kind, object_id=object_id, removed=True)
    if row is None:
        return None
    return SHOWN[kind](call, row)
