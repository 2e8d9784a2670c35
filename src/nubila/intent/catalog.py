"""Projects, accounts, tokens, key pairs, flavors, quotas: pure drafts of what has no life on a host."""

from __future__ import annotations

import base64
import binascii
import hashlib
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent import security_group
from nubila.intent.asking import Asking, Outcome, builtins, stamp
from nubila.model import catalog
from nubila.model.draft import Draft, Drafted, Effect, Row
from nubila.model.fields import Cores, Labels, MemoryMib, Name, Reference, SizeGib
from nubila.model.ids import text


class ProjectCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Create a project with the default quota."""

    name: Name
    description: Annotated[str, msgspec.Meta(max_length=500)] = ""
    labels: Labels = {}


class ProjectChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rename, describe or suspend a project."""

    name: Name | None = None
    description: Annotated[str, msgspec.Meta(max_length=500)] | None = None
    suspended: bool | None = None


class AccountCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Create a user or an operator. It can do nothing before it has a token."""

    name: Name
    email: Annotated[str, msgspec.Meta(max_length=254)] = ""
    labels: Labels = {}


class AccountChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Suspend a user, or lift that; a suspended user's tokens are refused at once."""

    email: Annotated[str, msgspec.Meta(max_length=254)] | None = None
    suspended: bool | None = None


class MemberChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give a user a role in a project."""

    role: catalog.ProjectRole


class TokenCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Create an API token. Its secret is shown once, in the answer."""

    name: Name
    project: Reference | None = None
    role: catalog.ProjectRole | None = None
    expires_in_s: Annotated[int, msgspec.Meta(ge=60, le=10 * 366 * 86400)] | None = None


class KeypairCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Register an OpenSSH public key under a name."""

    name: Name
    public_key: Annotated[str, msgspec.Meta(max_length=16384)]
    labels: Labels = {}


class FlavorCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Create a size that VMs can be made in."""

    name: Name
    cores: Cores
    memory_mib: MemoryMib
    disk_gib: SizeGib
    labels: Labels = {}


class QuotaChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Set limits of a project, class by class; classes left out stay. A limit below what is used stops further use only."""

    quota: dict[catalog.QuotaClass, Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]]


def _lasting(asking: Asking, draft: Draft, kind: str, name: str, spec: Any, labels: Labels, **extra: Any) -> Row:
    return draft.inserts(
        kind,
        id=asking.mint(),
        name=name,
        labels=labels,
        spec=builtins(spec),
        generation=1,
        state="active",
        status={},
        observed_generation=1,
        **extra,
    )


def _made(draft: Draft, kind: str, row: Row, **details: Any) -> Drafted:
    effect = Effect(action="create", kind=kind, id=text(kind, row["id"]), name=row["name"], details=details)
    return Drafted(draft=draft, status=201, refers={kind: row["id"]}, effects=[effect])


def create_project(body: ProjectCreate, asking: Asking) -> Outcome:
    draft = asking.draft()
    row = _lasting(asking, draft, "project", body.name, catalog.ProjectSpec(description=body.description), body.labels)
    for class_, amount in catalog.QUOTA_DEFAULT.items():
        draft.inserts("quota", project_id=row["id"], amount=amount, used=0, **{"class": class_.value})
    security_group.default_of(draft, asking, row["id"])
    return _made(draft, "project", row, quota={c.value: a for c, a in catalog.QUOTA_DEFAULT.items()})


def change_project(body: ProjectChange, row: Row, asking: Asking) -> Outcome:
    given = {k: v for k in ("description", "suspended") if (v := getattr(body, k)) is not None}
    return _changed("project", row, asking, given, body.name)


def change_user(body: AccountChange, row: Row, asking: Asking) -> Outcome:
    given = {k: v for k in ("email", "suspended") if (v := getattr(body, k)) is not None}
    return _changed("user", row, asking, given, None)


def _changed(kind: str, row: Row, asking: Asking, given: dict[str, Any], name: str | None) -> Outcome:
    spec = {**row["spec"], **given}
    columns: Row = {}
    if spec != row["spec"]:
        columns["spec"] = spec
    if name is not None and name != row["name"]:
        columns["name"] = name
    object_id = UUID(row["id"])
    draft = asking.draft()
    if not columns:
        return Drafted(draft=draft, status=200, refers={kind: object_id})
    draft.changes(kind, row, generation=row["generation"] + 1, **columns)
    shown = {k: {"was": row["spec"].get(k), "becomes": v} for k, v in given.items() if row["spec"].get(k) != v}
    if "name" in columns:
        shown["name"] = {"was": row["name"], "becomes": name}
    effect = Effect(action="change", kind=kind, id=text(kind, object_id), name=row["name"], details=shown)
    return Drafted(draft=draft, status=200, refers={kind: object_id}, effects=[effect])


def remove(kind: str, row: Row, asking: Asking, *, counted: str | None = None) -> Outcome:
    """Remove what nothing uses any more. `counted` names the quota class that is given back."""
    object_id = UUID(row["id"])
    draft = asking.draft()
    draft.removes(kind, row, state="removed", removed_at=asking.now, generation=row["generation"] + 1)
    if counted is not None:
        draft.takes_quota(UUID(row["project_id"]), counted, -1)
    effect = Effect(action="remove", kind=kind, id=text(kind, object_id), name=row["name"])
    return Drafted(draft=draft, status=200, refers={kind: object_id}, effects=[effect])


def new_in(project: Row, outcome: Outcome) -> Outcome:
    """Something new in a project: refused while that is suspended, and resting on it, so that it cannot go meanwhile."""
    if project["spec"]["suspended"]:
        return errors.Forbidden("The project is suspended: it keeps what it has, and nothing new can be made.")
    if isinstance(outcome, Drafted):
        outcome.draft.rests_on("project", project, compare=False)
    return outcome


def create_account(kind: str, body: AccountCreate, asking: Asking) -> Outcome:
    draft = asking.draft()
    row = _lasting(asking, draft, kind, body.name, catalog.AccountSpec(email=body.email), body.labels)
    return _made(draft, kind, row)


def set_member(body: MemberChange, project: Row, user: Row, present: str | None, asking: Asking) -> Outcome:
    draft = asking.draft()
    refers: dict[str, UUID | None] = {"project": UUID(project["id"]), "user": UUID(user["id"])}
    if present == body.role:
        return Drafted(draft=draft, status=200, refers=refers)
    draft.rests_on("project", project, compare=False)
    draft.rests_on("user", user, compare=False)
    if present is not None:
        draft.deletes("member", project_id=project["id"], user_id=user["id"])
    draft.inserts("member", project_id=project["id"], user_id=user["id"], role=body.role.value)
    effect = Effect(
        action="change",
        kind="member",
        id=text("user", UUID(user["id"])),
        name=user["name"],
        details={"project": project["name"], "role": {"was": present, "becomes": body.role.value}},
    )
    return Drafted(draft=draft, status=200, refers=refers, effects=[effect])


def create_token(
    body: TokenCreate,
    asking: Asking,
    *,
    kind: str,
    account: Row,
    project: Row | None,
    role: str,
    bearer: tuple[str, str],
    token_id: UUID,
) -> Outcome:
    """`bearer` is the text shown once and the SHA-256 that is kept; `role` was checked against the asker's."""
    draft = asking.draft()
    draft.rests_on(kind, account, compare=False)
    if project is not None:
        draft.rests_on("project", project, compare=False)
    expires = None if body.expires_in_s is None else _later(asking.now, body.expires_in_s)
    plane = catalog.Plane.USER if kind == "user" else catalog.Plane.OPERATOR
    spec = {
        "plane": plane.value,
        "account_id": text(kind, UUID(account["id"])),
        "role": role,
        "expires_at": expires,
        "project_id": None if project is None else text("project", UUID(project["id"])),
    }
    row = _token_row(draft, token_id, body.name, spec, account["id"], None if project is None else project["id"])
    draft.inserts("credential", id=token_id, sha256=bearer[1])
    made = _made(draft, "token", row, account=account["name"], role=role, expires_at=expires)
    return msgspec.structs.replace(made, secret={"secret": bearer[0]})


def _token_row(draft: Draft, token_id: UUID, name: str, spec: Row, account_id: Any, project_id: Any) -> Row:
    return draft.inserts(
        "token",
        id=token_id,
        name=name,
        spec=spec,
        labels={},
        generation=1,
        state="active",
        status={},
        observed_generation=1,
        account_id=account_id,
        project_id=project_id,
        plane=spec["plane"],
    )


def remove_token(row: Row, asking: Asking) -> Outcome:
    outcome = remove("token", row, asking)
    assert isinstance(outcome, Drafted)
    outcome.draft.deletes("credential", id=row["id"])
    return outcome


def first_operator(name: str, asking: Asking, bearer: tuple[str, str], token_id: UUID) -> Outcome:
    """The one operator that is made without an operator; the caller has checked the one-use secret."""
    draft = asking.draft()
    row = _lasting(asking, draft, "operator", name, catalog.AccountSpec(), {})
    body = TokenCreate(name=f"{name}-first")
    spec = {
        "plane": "operator",
        "account_id": text("operator", row["id"]),
        "role": "operator",
        "expires_at": None,
        "project_id": None,
    }
    _token_row(draft, token_id, body.name, spec, row["id"], None)
    draft.inserts("credential", id=token_id, sha256=bearer[1])
    made = _made(draft, "operator", row)
    return msgspec.structs.replace(made, secret={"token": bearer[0]})


KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)


def create_keypair(body: KeypairCreate, asking: Asking) -> Outcome:
    parts = body.public_key.strip().split(None, 2)
    fix = f"Send one line as in a .pub file: TYPE BASE64 COMMENT, with TYPE one of {', '.join(KEY_TYPES)}."
    if len(parts) < 2 or parts[0] not in KEY_TYPES or "\n" in body.public_key.strip():
        return errors.Invalid("public_key is not one line of an OpenSSH public key.", field="public_key", fix=fix)
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except (binascii.Error, ValueError):
        blob = b""
    if blob[4 : 4 + len(parts[0])] != parts[0].encode() or int.from_bytes(blob[:4], "big") != len(parts[0]):
        return errors.Invalid(
            "public_key's base64 part does not hold a key of the type it names.", field="public_key", fix=fix
        )
    comment = "".join(c for c in (parts[2] if len(parts) > 2 else "") if c.isprintable())
    line = f"{parts[0]} {parts[1]} {comment}".strip()
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    draft = asking.draft()
    spec = catalog.KeypairSpec(public_key=line, fingerprint=f"SHA256:{digest}")
    row = _lasting(
        asking, draft, "keypair", body.name, spec, body.labels, project_id=asking.project_id, user_id=asking.account_id
    )
    return _made(draft, "keypair", row, fingerprint=spec.fingerprint)


def create_flavor(body: FlavorCreate, asking: Asking) -> Outcome:
    draft = asking.draft()
    spec = catalog.FlavorSpec(cores=body.cores, memory_mib=body.memory_mib, disk_gib=body.disk_gib)
    return _made(draft, "flavor", _lasting(asking, draft, "flavor", body.name, spec, body.labels), **builtins(spec))


def set_quota(body: QuotaChange, project: Row, present: dict[str, list[int]], asking: Asking) -> Outcome:
    draft = asking.draft()
    shown = {}
    for class_, amount in body.quota.items():
        was = present.get(class_.value)
        if was is None:
            draft.inserts("quota", project_id=project["id"], amount=amount, used=0, **{"class": class_.value})
        elif was[0] != amount:
            draft.updates("quota", {"project_id": project["id"], "class": class_.value}, amount=amount)
        if was is None or was[0] != amount:
            shown[class_.value] = {"was": None if was is None else was[0], "becomes": amount}
    if shown:
        draft.rests_on("project", project, compare=False)
    effect = Effect(
        action="change", kind="quota", id=text("project", UUID(project["id"])), name=project["name"], details=shown
    )
    return Drafted(draft=draft, status=200, refers={"project": UUID(project["id"])}, effects=[effect] if shown else [])


def _later(now: datetime, seconds: int) -> str:
    return stamp(now + timedelta(seconds=seconds))
