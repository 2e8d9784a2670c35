"""Who makes a request. Made by `authenticate.py` only; policy, stores and the audit read it.

A principal belongs to exactly one plane, and on the user plane to exactly one project.
"""

from __future__ import annotations

from functools import lru_cache
from uuid import UUID

import msgspec

from nubila.model import ids
from nubila.model.catalog import Plane

NODE = "node"  # the role of every node certificate
WAITING = "waiting"  # of a machine that no operator has approved yet: it says what it is, and asks for nothing
LAPSED = "lapsed"  # of one that is past its time: it may be renewed with, and nothing else
OPERATOR = "operator"
NOBODY = "nobody"  # the role of a request without a credential, on the few routes that need none


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    plane: Plane
    role: str  # a ProjectRole, 'operator', 'node', 'waiting', 'lapsed' or 'nobody'
    actor: str  # for logs and the change log: 'user:usr-...', 'operator:opr-...', 'node:node-...', 'nobody'
    account_id: UUID | None = None  # the user or operator
    project_id: UUID | None = None  # user plane: the one project that it acts in
    node_id: UUID | None = None  # internal plane
    token_id: UUID | None = None


def account(plane: Plane, kind: str, account_id: UUID, role: str, project_id: UUID | None, token_id: UUID) -> Principal:
    """The principal of a token: `kind` is 'user' or 'operator'."""
    return Principal(
        plane=plane,
        role=role,
        actor=_actor(kind, account_id),
        account_id=account_id,
        project_id=project_id,
        token_id=token_id,
    )


def node(node_id: UUID, *, role: str = NODE) -> Principal:
    """`role` is NODE, WAITING or LAPSED."""
    return Principal(plane=Plane.INTERNAL, role=role, actor=_actor("node", node_id), node_id=node_id)


def nobody(plane: Plane) -> Principal:
    return Principal(plane=plane, role=NOBODY, actor=NOBODY)


@lru_cache(maxsize=4096)
def _actor(kind: str, account_id: UUID) -> str:
    return f"{kind}:{ids.text(kind, account_id)}"
