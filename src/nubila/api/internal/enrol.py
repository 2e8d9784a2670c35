"""How a machine becomes a node, keeps its certificate fresh, and opens a session."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives import serialization

from nubila import errors, protocol
from nubila.access import tokens
from nubila.access.authority import csr_key
from nubila.api.context import ApiCall
from nubila.api.route import Answer
from nubila.intent import node as intent
from nubila.intent.asking import Asking, Outcome
from nubila.intent.carry import Caller, Done
from nubila.model.ids import shaped, text
from nubila.telemetry import log

TRIES = 3


async def ca(call: ApiCall) -> Answer:
    """Nubila's CA certificate. A joining machine compares it with the fingerprint in its token."""
    return Answer(body={"ca_pem": call.context.authority.ca_pem})


async def enrol(call: ApiCall) -> Answer:
    """Enrol this machine as a node, with a join token that works once."""
    c = call.context
    body: protocol.Enrol = call.body
    token = tokens.parse(body.token)
    if token is None or token.kind is not tokens.Kind.JOIN:
        raise _refused()
    key = hashlib.sha256(
        csr_key(body.csr_pem).public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()
    row = await c.accounts.join_token(token.id)
    if (
        row is None
        or row["sha256"] is None
        or not tokens.fits(token.secret, bytes.fromhex(row["sha256"]))
        or row["expired"]
    ):
        raise _refused()
    joined: dict[str, Any] = msgspec.json.decode(row["token"])
    if row["used"]:
        # The same machine, whose first answer was lost: the same key proves it.
        if joined["spec"].get("key_sha256") != key:
            raise _refused()
        node_id = UUID(joined["node_id"])
    else:
        node_id = await _make(call, body, joined, key)
    return _enrolled(call, node_id, body.csr_pem)


def _refused() -> errors.Unauthenticated:
    return errors.Unauthenticated(
        "The join token is unknown, used, or too old.", fix="Ask an operator for a new one: 'nubila join-token create'."
    )


async def _make(call: ApiCall, body: protocol.Enrol, joined: dict[str, Any], key: str) -> UUID:
    c = call.context
    node_id: UUID = c.carrier.mint()
    wished = (
        joined["spec"].get("name")
        or re.sub(r"[^a-z0-9.-]", "-", body.fqdn.lower().split(".")[0])[:40].strip("-.")
        or "node"
    )
    if shaped(wished):  # it would be taken for another object's id
        wished = "node"

    for name in (wished, f"{wished}-{text('node', node_id)[-6:]}"):

        async def attempt(asking: Callable[[datetime], Asking], name: str = name) -> Outcome:
            return intent.enrol(body.fqdn[:255], joined, asking(await c.accounts.now()), node_id, name, key)

        try:
            done = await c.carrier.carry(
                Caller(actor=f"join-token:{joined['id']}", request=call.request_id, action="node.enrol", operator=True),
                attempt,
            )
        except errors.NameTaken:
            continue
        assert isinstance(done, Done)
        return node_id
    raise errors.Conflict("No free name was found for this node.")


def _enrolled(call: ApiCall, node_id: UUID, csr_pem: str) -> Answer:
    c = call.context
    certificate = c.authority.issue_node(csr_pem, node_id, datetime.now(UTC))
    return Answer(
        body=protocol.Enrolled(
            node_id=text("node", node_id), region=c.region, certificate_pem=certificate, ca_pem=c.authority.ca_pem
        )
    )


async def renew(call: ApiCall) -> Answer:
    """A fresh certificate for the node that asks, under a key that it proves to hold."""
    node_id = call.principal.node_id
    assert node_id is not None
    return _enrolled(call, node_id, call.body.csr_pem)


async def open_session(call: ApiCall) -> Answer:
    """Open a session: what the node says of itself is noted, and any older session is shut out."""
    c = call.context
    node_id = call.principal.node_id
    assert node_id is not None
    hello: protocol.Hello = call.body

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row = await c.accounts.node_rows(node_id)
        if row is None:
            raise errors.NotFound("This node is not known any more.")
        whole, methods, inventory = (msgspec.json.decode(row[k] or "[]") for k in ("node", "methods", "inventory"))
        return intent.open_session(hello, whole, methods, inventory, asking(row["now"]))

    caller = Caller(actor=call.principal.actor, request=call.request_id, action="session.open", operator=True)
    for _ in range(TRIES):
        try:
            await c.carrier.carry(caller, attempt)
        except errors.WrongMachine as e:
            log.get().warning("session.wrong-machine", node=call.principal.actor, reason=e.detail)
            raise
        session = await c.nodes.new_session(node_id)
        if not await c.nodes.lost(node_id):  # declared so between the two: it would speak, and stay lost
            break
    else:
        raise errors.Busy("The node is being declared lost again and again.")
    c.notifier.tell([f"node:{node_id}", "fleet"])
    return Answer(body=protocol.Welcome(session=session, fabric_epoch=c.fabric_epoch, region=c.region))
