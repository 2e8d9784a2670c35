"""Nodes and join tokens: operators only."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from nubila.access import tokens
from nubila.api.context import ApiCall, carried, drafting, filtered, found, listed, matching
from nubila.api.noun.shown import SHOWN
from nubila.api.noun.simple import showing
from nubila.api.route import Answer, answers
from nubila.intent import node as intent
from nubila.intent import node_change, node_life
from nubila.intent.asking import Asking, Outcome
from nubila.intent.carry import Done
from nubila.model.ids import text
from nubila.represent import openapi


class NodeQuery(msgspec.Struct, frozen=True):
    """Filters of a list of nodes; `rack=` alone finds those whose rack is not known."""

    name: str | None = None
    state: str | None = None
    label: list[str] = []
    zone: str | None = None
    rack: str | None = None


@answers(openapi.Listing)
async def list_nodes(call: ApiCall) -> Answer:
    """List nodes."""
    rows = await call.context.resources.list("node", filtered(call, "node", zone=call.query.zone, rack=call.query.rack))
    return listed(call, "node", rows, lambda r: SHOWN["node"](call, r))


async def create_join_token(call: ApiCall) -> Answer:
    """Create a token with which one machine may enrol itself, once. It is shown once."""
    c = call.context
    token_id = c.carrier.mint()
    bearer, digest = tokens.make(
        tokens.Kind.JOIN, token_id, c.random_bytes(tokens.ENTROPY_BYTES), ca_sha256=c.authority.ca_sha256
    )

    async def show(call: ApiCall, done: Done) -> dict[str, Any]:
        made = done.refers["join_token"]
        assert made is not None
        return {"id": text("join_token", made), "internal_url": c.settings.elsewhere(c.settings.internal_port)}

    return await carried(
        call,
        "join_token.create",
        drafting(call, lambda a: intent.create_join_token(call.body, a, token_id, (bearer, digest.hex()))),
        show,
    )


async def retire_node(call: ApiCall) -> Answer:
    """Retire a node: its agent is refused from then on, and nothing is placed there. Refused while it holds anything."""

    return await _verb(call, "node.retire", node_life.retire)


async def change_node(call: ApiCall) -> Answer:
    """Put a node into maintenance or back, or change what it offers."""
    return await _verb(call, "node.change", lambda view, asking: node_change.change(call.body, view, asking))


async def approve_node(call: ApiCall) -> Answer:
    """Let a machine in that waits for an operator's approval. A machine that is not wanted is retired instead."""
    return await _verb(call, "node.approve", node_life.approve)


async def drain_node(call: ApiCall) -> Answer:
    """Let nothing new come to a node that is to be emptied; `holds` of the answer says how much is still there."""
    return await _verb(call, "node.drain", lambda view, asking: node_life.drain(call.body, view, asking))


async def maintain_node(call: ApiCall) -> Answer:
    """Put a node into maintenance: it keeps what it has and gets nothing new."""
    return await _verb(call, "node.maintain", lambda view, asking: node_life.maintain(call.body, view, asking))


async def return_node(call: ApiCall) -> Answer:
    """Let a node get VMs again that was drained, in maintenance, or came back after it was lost."""
    return await _verb(call, "node.return", node_life.come_back)


async def lose_node(call: ApiCall) -> Answer:
    """Declare a silent node lost. If it speaks again, it stands in maintenance until it is returned."""
    return await _verb(call, "node.lose", lambda view, asking: node_life.lose(call.body, view, asking))


async def _verb(call: ApiCall, permission: str, verb: Callable[[node_change.View, Asking], Outcome]) -> Answer:
    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row = await found(call, "node", call.params["node"])
        rows = await call.context.accounts.node_rows(UUID(row["id"]))
        assert rows is not None
        whole, methods, inventory = (msgspec.json.decode(rows[k] or "[]") for k in ("node", "methods", "inventory"))
        matching(call, whole)
        view = node_change.View(
            row=whole,
            methods=methods,
            inventory=inventory,
            session=rows["session"],
            heard=rows["heard"] or 0,
            silent_s=rows["silent_s"],
        )
        return verb(view, asking(rows["now"]))

    return await carried(call, permission, attempt, showing("node"))
