"""Security groups: pure. Rules are checked here to the last bit, so that no node is ever sent one that it cannot load."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent.asking import Asking, Outcome, builtins
from nubila.model import security_group as sg
from nubila.model.draft import Draft, Drafted, Effect, Row
from nubila.model.fields import Labels, Name
from nubila.model.ids import parse, text

Description = Annotated[str, msgspec.Meta(max_length=500)]
Rules = Annotated[list[sg.Rule], msgspec.Meta(max_length=sg.RULES_MAX)]
SEE = "See 'nubila security-group list'."


class SecurityGroupCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Create a security group. Without rules it lets nothing in and nothing out."""

    name: Name
    description: Description = ""
    rules: Rules = []
    labels: Labels = {}


class SecurityGroupChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Change a security group. `rules` replaces all of them at once, on running ports too."""

    name: Name | None = None
    description: Description | None = None
    rules: Rules | None = None
    labels: Labels | None = None


def create(body: SecurityGroupCreate, known: Sequence[Row], asking: Asking) -> Outcome:
    """`known` are the project's groups."""
    if len(known) >= sg.GROUPS_PER_PROJECT_MAX:
        return errors.Invalid(
            f"The project has {len(known)} security groups, and {sg.GROUPS_PER_PROJECT_MAX} is the most.",
            fix="Remove one that nothing uses.",
        )
    group_id = asking.mint()
    made = _rules(body.rules, known, group_id, body.name)
    if isinstance(made, errors.NubilaError):
        return made
    rules, remotes = made
    draft = asking.draft()
    assert asking.project_id is not None
    _rest_on(draft, known, remotes, group_id)
    row = _insert(draft, asking, asking.project_id, group_id, body.name, rules, remotes, body.description, body.labels)
    effect = Effect(
        action="create",
        kind="security_group",
        id=text("security_group", group_id),
        name=body.name,
        details={"rules": [sg.words(r) for r in rules]},
    )
    return Drafted(draft=draft, status=201, refers={"security_group": row["id"]}, effects=[effect])


def default_of(draft: Draft, asking: Asking, project_id: UUID) -> Row:
    """The group that every project begins with."""
    rules = tuple(sg.checked(r) for r in sg.DEFAULT_RULES)
    words = "What ports are in unless others are named: ssh and ping from anywhere, everything to anywhere."
    return _insert(draft, asking, project_id, asking.mint(), sg.DEFAULT, rules, set(), words, {})


def change(body: SecurityGroupChange, row: Row, known: Sequence[Row], asking: Asking) -> Outcome:
    group_id, spec = UUID(row["id"]), msgspec.convert(row["spec"], sg.Spec)
    draft, columns, shown = asking.draft(), dict[str, Any](), dict[str, Any]()
    for field in ("name", "labels"):
        value = getattr(body, field)
        if value is not None and value != row[field]:
            columns[field], shown[field] = value, {"was": row[field], "becomes": value}
    after = spec if body.description is None else msgspec.structs.replace(spec, description=body.description)
    if after != spec:
        shown["description"] = {"was": spec.description, "becomes": after.description}
    if body.rules is not None:
        made = _rules(body.rules, known, group_id, row["name"])
        if isinstance(made, errors.NubilaError):
            return made
        rules, remotes = made
        after = msgspec.structs.replace(after, rules=rules)
        if rules != spec.rules:
            shown |= _difference(spec.rules, rules)
            columns["remote_ids"] = sorted(remotes)
            _rest_on(draft, known, remotes, group_id)
            draft.changes_groups(rules=[group_id])
    if after != spec:
        columns["spec"] = builtins(after)
    if not columns:
        return Drafted(draft=draft, status=200, refers={"security_group": group_id})
    generation = row["generation"] + 1
    draft.changes("security_group", row, generation=generation, observed_generation=generation, **columns)
    effect = Effect(
        action="change",
        kind="security_group",
        id=text("security_group", group_id),
        name=row["name"],
        details={**shown, **({"ports": row["ports"]} if "ports" in row else {})},
    )
    return Drafted(draft=draft, status=200, refers={"security_group": group_id}, effects=[effect])


def remove(row: Row, users: dict[str, list[str]], asking: Asking) -> Outcome:
    """`users`: names of the ports in it, and of the other groups whose rules name it."""
    if row["name"] == sg.DEFAULT:
        return errors.Conflict(
            "The group 'default' stays: ports are in it unless others are named.",
            fix="Change its rules, or rename it: a project without a group 'default' has to name groups for each port.",
        )
    used = {kind: names for kind, names in users.items() if names}
    if used:
        said = " and ".join(f"{len(n)} {kind.replace('_', ' ')}" for kind, n in used.items())
        return errors.InUse(f"The security group is used by {said}.", users=used)
    group_id = UUID(row["id"])
    draft = asking.draft()
    draft.removes("security_group", row, state="removed", removed_at=asking.now, generation=row["generation"] + 1)
    effect = Effect(
        action="remove", kind="security_group", id=text("security_group", group_id), name=row["name"]
    )  # fmt: skip
    return Drafted(draft=draft, status=200, refers={"security_group": group_id}, effects=[effect])


def chosen(references: Sequence[str] | None, known: Sequence[Row], field: str) -> list[Row] | errors.NubilaError:
    """The groups that a port shall be in: those named, or 'default'."""
    if references is not None and len(references) > sg.GROUPS_PER_PORT_MAX:
        return errors.Invalid(f"A port is in at most {sg.GROUPS_PER_PORT_MAX} groups.", field=field)
    by_ref = _by_reference(known)
    if references is None and sg.DEFAULT not in by_ref:
        return errors.Invalid(
            f"The project has no security group '{sg.DEFAULT}': name the groups.",
            field=field,
            fix=f"{SEE} An empty list is no group: nothing gets in or out.",
        )
    wanted = [sg.DEFAULT] if references is None else references
    missing = [r for r in wanted if r not in by_ref]
    if missing:
        return errors.Invalid(f"There is no security group '{missing[0]}'.", field=field, fix=SEE)
    return list({by_ref[r]["id"]: by_ref[r] for r in wanted}.values())


def _by_reference(known: Iterable[Row]) -> dict[str, Row]:
    return {r: g for g in known for r in (g["name"], text("security_group", UUID(g["id"])))}


def _rules(
    given: Sequence[sg.Rule], known: Sequence[Row], group_id: UUID, own_name: str
) -> tuple[tuple[sg.Rule, ...], set[UUID]] | errors.NubilaError:
    """The rules in one form, groups by their ids, nothing twice; and the groups that they name."""
    by_ref = {r: UUID(g["id"]) for r, g in _by_reference(known).items()}
    by_ref |= {own_name: group_id, text("security_group", group_id): group_id}
    rules: dict[sg.Rule, None] = {}
    remotes: set[UUID] = set()
    for number, rule in enumerate(given):
        where = f"rules[{number}]"
        if rule.group is not None:
            if rule.group not in by_ref:
                return errors.Invalid(f"There is no security group '{rule.group}'.", field=where, fix=SEE)
            remotes.add(by_ref[rule.group])
            rule = msgspec.structs.replace(rule, group=text("security_group", by_ref[rule.group]))
        try:
            rules[sg.checked(rule)] = None
        except ValueError as e:
            return errors.Invalid(f"Rule {number + 1}: {e}.", field=where)
    return tuple(rules), remotes


def _rest_on(draft: Draft, known: Sequence[Row], remotes: set[UUID], own: UUID) -> None:
    for g in known:
        if UUID(g["id"]) in remotes and UUID(g["id"]) != own:
            draft.rests_on("security_group", g, compare=False)


def _difference(was: tuple[sg.Rule, ...], becomes: tuple[sg.Rule, ...]) -> dict[str, Any]:
    added, gone = [r for r in becomes if r not in was], [r for r in was if r not in becomes]
    said = {"rules added": [sg.words(r) for r in added], "rules removed": [sg.words(r) for r in gone]}
    return {k: v for k, v in said.items() if v}


def _insert(
    draft: Draft,
    asking: Asking,
    project_id: UUID,
    group_id: UUID,
    name: str,
    rules: tuple[sg.Rule, ...],
    remotes: set[UUID],
    description: str,
    labels: dict[str, str],
) -> Row:
    return draft.inserts(
        "security_group",
        id=group_id,
        project_id=project_id,
        name=name,
        labels=labels,
        spec=builtins(sg.Spec(description=description, rules=rules)),
        generation=1,
        state="active",
        status={},
        observed_generation=1,
        remote_ids=sorted(remotes),
    )


def id_of(reference: str) -> UUID | None:
    return parse("security_group", reference)
