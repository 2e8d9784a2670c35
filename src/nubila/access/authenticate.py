"""Authentication: a bearer token or a node's certificate becomes a Principal. Called by the framework per request.

Every failure is the same error: unknown, wrong plane, wrong secret, expired, revoked and suspended are not told apart.
Rows come through a port; whoever implements it may cache them, for two seconds at most, since revoking must bite.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol
from uuid import UUID

import msgspec

from nubila.access import principal, tokens
from nubila.access.principal import Principal
from nubila.errors import Unauthenticated
from nubila.model import ids
from nubila.model.catalog import Plane


class TokenRow(msgspec.Struct, frozen=True, kw_only=True):
    """What the store knows of a token and of all that it depends on."""

    token_id: UUID
    secret_sha256: bytes
    plane: Plane
    account_kind: str  # 'user' or 'operator'
    account_id: UUID
    role: str  # the lower of the token's and of the member's present role
    project_id: UUID | None = None
    expires_at: datetime | None = None
    live: bool = True  # not revoked; account not suspended or removed; project not removed; still a member


class Credentials(Protocol):
    async def token(self, token_id: UUID) -> TokenRow | None: ...

    async def node(self, node_id: UUID) -> str | None:
        """The role in which this node may speak: NODE, or WAITING until it is approved; None when it is retired."""
        ...


PEER = "nubila.peer"  # in an ASGI scope's extensions: a Peer, put there by the connection alone


class Peer(msgspec.Struct, frozen=True):
    """A client certificate that TLS has verified against Nubila's CA."""

    uris: tuple[str, ...]  # URI SANs
    not_after: float  # seconds since the epoch: connections outlive handshakes


class Authenticator:
    """Of one plane. `clock` gives the present time with its zone, `region` the installation id in certificates."""

    def __init__(self, plane: Plane, credentials: Credentials, clock: Callable[[], datetime], region: str):
        self._plane = plane
        self._credentials = credentials
        self._clock = clock
        self._prefix = f"spiffe://{region}/node/"
        self._kind = tokens.Kind.OPERATOR if plane is Plane.OPERATOR else tokens.Kind.USER

    async def __call__(self, authorization: str | None, peer: Peer | None) -> Principal:
        """The principal of a request, from its Authorization header and its connection's certificate."""
        if self._plane is Plane.INTERNAL:
            return await self._node(peer)
        return await self._token(authorization)

    async def _token(self, authorization: str | None) -> Principal:
        scheme, _, text = (authorization or "").partition(" ")
        token = tokens.parse(text.strip()) if scheme.lower() == "bearer" else None
        if token is None or token.kind is not self._kind:
            raise Unauthenticated()
        row = await self._credentials.token(token.id)
        if not tokens.fits(token.secret, row.secret_sha256 if row else b""):
            raise Unauthenticated()
        if row is None or row.plane is not self._plane or not row.live:
            raise Unauthenticated()
        if row.expires_at is not None and row.expires_at <= self._clock():
            raise Unauthenticated()
        return principal.account(row.plane, row.account_kind, row.account_id, row.role, row.project_id, row.token_id)

    async def _node(self, peer: Peer | None) -> Principal:
        # Exactly one URI, as SPIFFE has it: with two, which one is meant would be anybody's choice.
        uri = peer.uris[0] if peer is not None and len(peer.uris) == 1 else ""
        node_id = ids.parse("node", uri.removeprefix(self._prefix)) if uri.startswith(self._prefix) else None
        if peer is None or node_id is None:
            raise _no_certificate()
        role = await self._credentials.node(node_id)
        if role is None:
            raise _no_certificate()
        return principal.node(node_id, role=principal.LAPSED if peer.not_after <= self._clock().timestamp() else role)


def _no_certificate() -> Unauthenticated:
    return Unauthenticated(
        "No valid certificate of a node of this installation came with the connection.",
        fix="Enrol the node with a join token, and connect with the certificate that it got.",
    )
