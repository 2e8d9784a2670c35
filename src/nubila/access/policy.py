"""The policy: plane -> permission -> which roles, over whose objects. Read by the framework at build and per request.

What is not in the table is refused: a route whose permission has no row on its plane fails the build. `owner` says to
which objects the store's queries are limited; a foreign object is answered as one that does not exist.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from nubila.access.principal import LAPSED, NOBODY, NODE, OPERATOR, WAITING, Principal
from nubila.errors import Forbidden, NotApproved, Unauthenticated
from nubila.model.catalog import Plane, ProjectRole

# project: objects of the principal's project (and public ones); account: what the account itself made;
# node: objects placed on the principal's node; any: all objects.
Owner = Literal["project", "account", "node", "any"]


class Rule(msgspec.Struct, frozen=True):
    roles: frozenset[str]
    owner: Owner = "any"

    @property
    def open(self) -> bool:
        """No credential is needed, and none is looked at."""
        return NOBODY in self.roles


OWNERS = frozenset[str]({ProjectRole.OWNER})
WRITERS = frozenset[str]({ProjectRole.OWNER, ProjectRole.MEMBER})
READERS = frozenset[str]({ProjectRole.OWNER, ProjectRole.MEMBER, ProjectRole.READER})
OPERATORS = frozenset({OPERATOR})
NODES = frozenset({NODE})
EVERYBODY = frozenset({NOBODY})

META: dict[str, Rule] = {
    "health.read": Rule(EVERYBODY),
    "openapi.read": Rule(EVERYBODY),
}

USER: dict[str, Rule] = META | {
    "vm.read": Rule(READERS, "project"),
    "vm.create": Rule(WRITERS, "project"),
    "vm.change": Rule(WRITERS, "project"),
    "vm.remove": Rule(WRITERS, "project"),
    "vm.start": Rule(WRITERS, "project"),
    "vm.stop": Rule(WRITERS, "project"),
    "vm.reboot": Rule(WRITERS, "project"),
    "vm.reset": Rule(WRITERS, "project"),
    "vm.suspend": Rule(WRITERS, "project"),
    "vm.resume": Rule(WRITERS, "project"),
    "vm.insert": Rule(WRITERS, "project"),
    "vm.eject": Rule(WRITERS, "project"),
    "vm.rescue": Rule(WRITERS, "project"),
    "vm.unrescue": Rule(WRITERS, "project"),
    "vm.hold": Rule(WRITERS, "project"),
    "vm.unhold": Rule(WRITERS, "project"),
    "vm.read_user_data": Rule(WRITERS, "project"),  # a secret; every read is kept in `call`
    "vm.console": Rule(WRITERS, "project"),  # consoles often show passwords
    "operation.read": Rule(READERS, "project"),
    "operation.cancel": Rule(WRITERS, "project"),
    "plan.read": Rule(READERS, "account"),
    "plan.apply": Rule(WRITERS, "account"),
    "plan.remove": Rule(READERS, "account"),
    "keypair.read": Rule(READERS, "project"),
    "keypair.create": Rule(WRITERS, "project"),
    "keypair.remove": Rule(WRITERS, "project"),
    "flavor.read": Rule(READERS, "project"),
    "image.read": Rule(READERS, "project"),
    "image.create": Rule(WRITERS, "project"),
    "image.upload": Rule(WRITERS, "project"),
    "image.download": Rule(READERS, "project"),
    "image.share": Rule(WRITERS, "project"),
    "image.remove": Rule(WRITERS, "project"),
    "network.read": Rule(READERS, "project"),
    "network.create": Rule(WRITERS, "project"),
    "network.remove": Rule(WRITERS, "project"),
    "port.read": Rule(READERS, "project"),
    "port.create": Rule(WRITERS, "project"),
    "port.change": Rule(WRITERS, "project"),
    "port.assign": Rule(WRITERS, "project"),
    "port.unassign": Rule(WRITERS, "project"),
    "port.remove": Rule(WRITERS, "project"),
    "security_group.read": Rule(READERS, "project"),
    "security_group.create": Rule(WRITERS, "project"),
    "security_group.change": Rule(WRITERS, "project"),
    "security_group.remove": Rule(WRITERS, "project"),
    "volume.read": Rule(READERS, "project"),
    "volume.create": Rule(WRITERS, "project"),
    "volume.change": Rule(WRITERS, "project"),
    "volume.attach": Rule(WRITERS, "project"),
    "volume.detach": Rule(WRITERS, "project"),
    "volume.roll-back": Rule(WRITERS, "project"),
    "volume.remove": Rule(WRITERS, "project"),
    "snapshot.read": Rule(READERS, "project"),
    "snapshot.create": Rule(WRITERS, "project"),
    "snapshot.remove": Rule(WRITERS, "project"),
    "project.read": Rule(READERS, "project"),
    "token.read": Rule(READERS, "account"),
    "token.create": Rule(READERS, "account"),  # never with more rights than the token that asks
    "token.remove": Rule(READERS, "account"),
    "me.read": Rule(READERS, "account"),
    "change.read": Rule(READERS, "project"),
    "event.read": Rule(READERS, "project"),
}

OPERATOR_RULES: dict[str, Rule] = META | {
    "operator.first": Rule(EVERYBODY),  # guarded by the one-use secret in the body
    "operator.read": Rule(OPERATORS),
    "operator.create": Rule(OPERATORS),
    "operator.remove": Rule(OPERATORS),
    "me.read": Rule(OPERATORS, "account"),
    "project.read": Rule(OPERATORS),
    "project.create": Rule(OPERATORS),
    "project.change": Rule(OPERATORS),
    "project.remove": Rule(OPERATORS),
    "quota.read": Rule(OPERATORS),
    "quota.change": Rule(OPERATORS),
    "user.read": Rule(OPERATORS),
    "user.create": Rule(OPERATORS),
    "user.change": Rule(OPERATORS),
    "user.remove": Rule(OPERATORS),
    "member.read": Rule(OPERATORS),
    "member.change": Rule(OPERATORS),
    "member.remove": Rule(OPERATORS),
    "token.read": Rule(OPERATORS),
    "token.create": Rule(OPERATORS),
    "token.remove": Rule(OPERATORS),
    "flavor.read": Rule(OPERATORS),
    "flavor.create": Rule(OPERATORS),
    "flavor.remove": Rule(OPERATORS),
    "image.read": Rule(OPERATORS),
    "image.create": Rule(OPERATORS),
    "image.upload": Rule(OPERATORS),
    "image.download": Rule(OPERATORS),
    "image.share": Rule(OPERATORS),
    "image.remove": Rule(OPERATORS),
    "join_token.read": Rule(OPERATORS),
    "join_token.create": Rule(OPERATORS),
    "join_token.remove": Rule(OPERATORS),
    "node.read": Rule(OPERATORS),
    "decision.read": Rule(OPERATORS),
    "node.change": Rule(OPERATORS),
    "node.approve": Rule(OPERATORS),
    "node.drain": Rule(OPERATORS),
    "node.maintain": Rule(OPERATORS),
    "node.return": Rule(OPERATORS),
    "node.lose": Rule(OPERATORS),
    "node.retire": Rule(OPERATORS),
    "drift.read": Rule(OPERATORS),
    "drift.repair": Rule(OPERATORS),
    "drift.adopt": Rule(OPERATORS),
    "drift.ignore": Rule(OPERATORS),
    "parked.read": Rule(OPERATORS),
    "network.read": Rule(OPERATORS),
    "network.remove": Rule(OPERATORS),
    "volume.read": Rule(OPERATORS),
    "snapshot.read": Rule(OPERATORS),
    "port.read": Rule(OPERATORS),
    "security_group.read": Rule(OPERATORS),
    "vm.read": Rule(OPERATORS),
    "vm.hold": Rule(OPERATORS),
    "vm.unhold": Rule(OPERATORS),
    "vm.start": Rule(OPERATORS),
    "vm.stop": Rule(OPERATORS),
    "vm.reboot": Rule(OPERATORS),
    "vm.remove": Rule(OPERATORS),
    "change.read": Rule(OPERATORS),
    "audit.read": Rule(OPERATORS),
    "event.read": Rule(OPERATORS),
    "operation.read": Rule(OPERATORS),
    "operation.cancel": Rule(OPERATORS),
    "plan.read": Rule(OPERATORS, "account"),
    "plan.apply": Rule(OPERATORS, "account"),
    "plan.remove": Rule(OPERATORS, "account"),
}

INTERNAL: dict[str, Rule] = META | {
    "node.enrol": Rule(EVERYBODY),  # guarded by the join token in the body
    "ca.read": Rule(EVERYBODY),
    # LAPSED: a machine that was off for longer than its certificate lives. WAITING: what it is, an operator wants to see
    "node.renew": Rule(NODES | {LAPSED, WAITING}, "node"),
    "session.open": Rule(NODES | {WAITING}, "node"),
    "wanted.read": Rule(NODES, "node"),
    "report.write": Rule(NODES, "node"),
    "image.read": Rule(NODES, "node"),
    "image.send": Rule(NODES, "node"),
    "event.read": Rule(NODES, "node"),
    "question.answer": Rule(NODES, "node"),
}

POLICY: dict[Plane, dict[str, Rule]] = {
    Plane.USER: USER,
    Plane.OPERATOR: OPERATOR_RULES,
    Plane.INTERNAL: INTERNAL,
}


def rule(plane: Plane, permission: str) -> Rule:
    """The row of the table. A KeyError here is a route without a policy, and stops the build."""
    return POLICY[plane][permission]


def allow(permission: str, principal: Principal) -> None:
    """Raises Forbidden unless the principal's role has the permission on its plane."""
    row = POLICY[principal.plane].get(permission)
    if principal.role == LAPSED and (row is None or LAPSED not in row.roles):
        raise Unauthenticated("The node's certificate is past its time.", fix="Renew it: POST /internal/v1/renew.")
    if principal.role == WAITING and (row is None or WAITING not in row.roles):
        raise NotApproved()
    if row is None or (principal.role not in row.roles and not row.open):
        needed = sorted(row.roles) if row else []
        raise Forbidden(
            f"'{permission}' needs the role {' or '.join(needed)}; yours is {principal.role}.",
            permission=permission,
            role=principal.role,
            needed=needed,
        )
