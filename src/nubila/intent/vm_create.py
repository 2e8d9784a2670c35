"""Create a vm: pure. Called through `carry.py` with a view read in one snapshot and the fleet's nodes."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent import port_place, security_group
from nubila.intent.asking import Asking, Outcome, builtins, wish
from nubila.intent.refusing import over_quota, refused
from nubila.intent.vm_effects import given
from nubila.model import catalog, image, operation, vm, volume
from nubila.model.draft import Draft, Drafted, Effect, Row
from nubila.model.fields import BootString, Labels, Name, Reference, SizeGib, UserData
from nubila.model.ids import host_handle, text
from nubila.placement.decide import Ranking, Refusal, decide
from nubila.placement.nodes import Node, Nodes, Request

VirtMethod = str
# best first: what a node that offers several is asked for when the request does not say
PREFERRED = ("kvm", "qemu", "lxc", "fake")


class VmCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Create a VM from an image, on networks of the project."""

    name: Name
    flavor: Reference
    image: Reference
    networks: list[Reference] | None = None
    security_groups: list[Reference] | None = None
    keys: list[Reference] = []
    user_data: UserData | None = None
    boot_string: BootString = ""
    labels: Labels = {}
    hostname: Name | None = None
    disk_gib: SizeGib | None = None
    power: vm.Power = vm.Power.ON
    virt_method: Name | None = None
    on_crash: vm.CrashPolicy = vm.CrashPolicy.RESTART
    protected: bool = False
    zone: Name | None = None


class Sealed(msgspec.Struct, frozen=True):
    """User data, encrypted by the caller before the draft is made: a draft may be stored."""

    id: UUID
    nonce: str
    sealed: str
    sha256: str


class _Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What a request came to: the rows that it names, and its node."""

    body: VmCreate
    flavor: Row
    picture: Row
    networks: list[Row]
    groups: list[Row]
    keys: tuple[str, ...]  # public keys
    sealed: Sealed | None
    request: Request
    node: Node


def create(
    body: VmCreate,
    view: dict[str, Any],
    nodes: Nodes,
    asking: Asking,
    *,
    seed: int,
    sealed: Sealed | None,
    entropy: list[int],
) -> Outcome:
    checked = _check(body, view)
    if isinstance(checked, errors.NubilaError):
        return checked
    flavor, picture, networks = checked
    request = Request(
        cores=flavor["spec"]["cores"],
        memory_mib=flavor["spec"]["memory_mib"],
        disk_gib=body.disk_gib or max(flavor["spec"]["disk_gib"], picture["spec"]["min_disk_gib"]),
        virt_method=body.virt_method or (next(iter(vm.CONTAINERS)) if _is_root(picture) else None),
        crowded=port_place.crowded(networks, view.get("crowded") or [], nodes),
        zone=body.zone,
        seed=seed,
    )
    over = over_quota(_needs(request), view["quota"] or {})
    if over is not None:
        return over
    decision = decide(request, nodes)
    if isinstance(decision, Refusal):
        return refused(decision, request, asking.operator)
    groups = security_group.chosen(body.security_groups, view["groups"] or [], "security_groups")
    if isinstance(groups, errors.NubilaError):
        return groups
    by_ref = {r: k for k in view["keys"] or [] for r in (k["name"], text("keypair", UUID(k["id"])))}
    choice = _Choice(
        body=body, flavor=flavor, picture=picture, networks=networks, groups=groups, sealed=sealed, request=request,
        keys=tuple(by_ref[k]["spec"]["public_key"] for k in body.keys), node=nodes.rows[decision.choices[0].index],
    )  # fmt: skip
    return _drafted(choice, view["project"], asking, entropy, _explained(decision, nodes, request))


def _needs(request: Request) -> dict[str, int]:
    """Of each class of quota."""
    return {
        "vms": 1, "cores": request.cores, "memory_mib": request.memory_mib, "volumes": 1, "disk_gib": request.disk_gib,
    }  # fmt: skip


def _drafted(choice: _Choice, project: Row, asking: Asking, entropy: list[int], explained: dict[str, Any]) -> Outcome:
    draft, node = asking.draft(), choice.node
    draft.rests_on("project", project)
    draft.rests_on("flavor", choice.flavor)
    draft.rests_on("image", choice.picture)
    for found in choice.networks:
        draft.rests_on("network", found)
    made = _vm(choice, draft, asking)
    root = _root(choice, made, draft, asking)
    ports = port_place.ports(draft, asking, made, choice.networks, choice.groups, entropy)
    if isinstance(ports, errors.NubilaError):
        return ports
    _claims(draft, asking, made, root, choice)
    for net in choice.networks if not node.overlapping_ranges else ():
        draft.takes_ranges(node.id, net["id"])
    draft.inserts(
        "decision",
        id=asking.mint(),
        vm_id=made["id"],
        project_id=asking.project_id,
        node_id=node.id,
        answer=explained,
    )
    op = wish(asking, draft, operation.Verb.CREATE, kind="vm", row=made, generation=1)
    draft.wakes(node.id, made["id"])
    return Drafted(
        draft=draft,
        status=201,
        refers={"vm": made["id"], "operation": op["id"]},
        effects=[*_effects(choice, made, root), *ports],
        hints=[f"node:{node.id}"],
        rows={"vm": _as_read(made, draft, choice), "operation": op | _UNREAD},
    )


def _effects(choice: _Choice, made: Row, root: Row) -> list[Effect]:
    return [
        Effect(
            action="create",
            kind="vm",
            id=text("vm", made["id"]),
            name=made["name"],
            details={
                "cores": choice.request.cores,
                "memory_mib": choice.request.memory_mib,
                "virt_method": made["spec"]["virt_method"],
                "power": choice.body.power.value,
                **given(choice.body),
                "host": host_handle(made["project_id"], choice.node.id),
            },
            operator_details={"node": choice.node.name},
        ),
        Effect(
            action="create",
            kind="volume",
            id=text("volume", root["id"]),
            name=root["name"],
            details={
                "size_gib": choice.request.disk_gib,
                "image": choice.picture["name"],
                "pool": root["spec"]["pool"],
            },
        ),
    ]


_UNREAD: Row = {"labels": {}, "status": None, "observed_generation": 0, "version": 1, "ended_at": None}


def _as_read(made: Row, draft: Draft, choice: _Choice) -> Row:
    """The new vm with what a reader finds beside it."""
    beside = {
        "node_name": choice.node.name,
        "flavor_name": choice.flavor["name"],
        "image_name": choice.picture["name"],
        "login": choice.picture["spec"]["login"],
    }
    addresses = " ".join(a["address"] for a in draft.insert.get("address", ()))
    return {**_UNREAD, **made, **beside, "silent_s": choice.node.silent_s, "addresses": addresses}


def _check(body: VmCreate, view: dict[str, Any]) -> tuple[Row, Row, list[Row]] | errors.NubilaError:
    if view["project"] is None:
        return errors.NotFound("Your project does not exist any more.")
    if view["project"]["spec"]["suspended"]:
        return errors.Forbidden("The project is suspended: it keeps what it has, and nothing new can be made.")
    if view["taken"]:
        return errors.NameTaken(f"A VM named '{body.name}' exists in this project.", kind="vm")
    flavor, picture = view["flavor"], view["image"]
    if flavor is None:
        return errors.Invalid(f"There is no flavor '{body.flavor}'.", field="flavor", fix="See 'nubila flavor list'.")
    if picture is None:
        return errors.Invalid(f"There is no image '{body.image}'.", field="image", fix="See 'nubila image list'.")
    if (wrong := _check_image(body, flavor, picture)) is not None:
        return wrong
    networks = port_place.joined(body.networks, view["networks"] or [])
    if isinstance(networks, errors.NubilaError):
        return networks
    return _check_keys(body, view) or (flavor, picture, networks)


def _check_image(body: VmCreate, flavor: Row, picture: Row) -> errors.NubilaError | None:
    if picture["state"] != image.State.READY:
        return errors.Conflict(
            f"Image '{picture['name']}' has no content yet.", field="image", fix="Upload its content first."
        )
    if picture["spec"]["format"] == image.Format.ISO:
        return errors.Invalid(
            f"Image '{picture['name']}' is an ISO: no disk is made from it.",
            field="image",
            fix="Name a qcow2, raw or tar image; an ISO is put into a VM's drive.",
        )
    if (wrong := _method_fault(body, picture)) is not None:
        return wrong
    smallest = picture["spec"]["min_disk_gib"]
    if body.disk_gib is not None and body.disk_gib < smallest:
        return errors.Invalid(
            f"disk_gib is {body.disk_gib}; image '{picture['name']}' needs at least {smallest} GiB.", field="disk_gib"
        )
    if flavor["spec"]["memory_mib"] < picture["spec"]["min_memory_mib"]:
        return errors.Invalid(
            f"Flavor '{flavor['name']}' has {flavor['spec']['memory_mib']} MiB; image '{picture['name']}' needs at least "
            f"{picture['spec']['min_memory_mib']} MiB of memory.",
            field="flavor",
        )
    return None


def _check_keys(body: VmCreate, view: dict[str, Any]) -> errors.Invalid | None:
    keys = {r for k in view["keys"] or [] for r in (k["name"], text("keypair", UUID(k["id"])))}
    unknown = [k for k in body.keys if k not in keys]
    if unknown:
        return errors.Invalid(f"There is no key pair '{unknown[0]}'.", field="keys", fix="See 'nubila keypair list'.")
    return None


def _is_root(picture: Row) -> bool:
    return bool(picture["spec"]["format"] == image.Format.TAR)


def _method_fault(body: VmCreate, picture: Row) -> errors.Invalid | None:
    """A container runs a root file system, and nothing else does."""
    root = _is_root(picture)
    if body.virt_method is not None and (body.virt_method in vm.CONTAINERS) is not root:
        runs = "root file systems (images of format tar)" if not root else "disks (images of format qcow2 or raw)"
        return errors.Invalid(
            f"Image '{picture['name']}' is {picture['spec']['format']}; the virt method {body.virt_method} runs {runs}.",
            field="virt_method",
            fix="Leave 'virt_method' out, or name another image.",
        )
    if root and body.on_crash is vm.CrashPolicy.PRESERVE:
        return errors.Invalid(
            "A container has no kernel of its own whose remains could be preserved.", field="on_crash",
            fix="Choose another crash policy.",
        )  # fmt: skip
    return None


def _virt_method(body: VmCreate, node: Node, root: bool) -> str:
    usable = [m for m in node.virt_methods if (m in vm.CONTAINERS) is root]
    return body.virt_method or next((m for m in PREFERRED if m in usable), usable[0])


def _vm(choice: _Choice, draft: Draft, asking: Asking) -> Row:
    body, flavor, picture, sealed = choice.body, choice.flavor, choice.picture, choice.sealed
    root = _is_root(picture)
    spec = vm.Spec(
        cores=flavor["spec"]["cores"],
        memory_mib=flavor["spec"]["memory_mib"],
        cores_max=flavor["spec"]["cores"] if root else vm.cores_max(flavor["spec"]["cores"]),
        virt_method=_virt_method(body, choice.node, root),
        hostname=body.hostname or body.name,
        flavor_id=text("flavor", UUID(flavor["id"])),
        image_id=text("image", UUID(picture["id"])),
        power=body.power,
        on_crash=body.on_crash,
        protected=body.protected,
        zone=body.zone,
        starts=1 if body.power is vm.Power.ON else 0,
        boot_string=body.boot_string,
        user_data_secret=None if sealed is None else text("secret", sealed.id),
        user_data_sha256=None if sealed is None else sealed.sha256,
        keys=choice.keys,
    )
    if sealed is not None:
        draft.inserts("secret", id=sealed.id, nonce=sealed.nonce, sealed=sealed.sealed)
    return draft.inserts(
        "vm",
        id=asking.mint(),
        project_id=asking.project_id,
        name=body.name,
        labels=body.labels,
        spec=builtins(spec),
        generation=1,
        state=vm.state(spec, None).value,
        node_id=choice.node.id,
        epoch=1,
        flavor_id=flavor["id"],
        image_id=picture["id"],
        user_data_secret=None if sealed is None else sealed.id,
    )


def _root(choice: _Choice, made: Row, draft: Draft, asking: Asking) -> Row:
    """The root volume, and the attachment that lets the vm write there."""
    picture, root_id = choice.picture, asking.mint()
    spec = volume.Spec(
        size_gib=choice.request.disk_gib,
        format=volume.Format.RAW if _is_root(picture) else volume.Format.QCOW2,
        image_id=text("image", UUID(picture["id"])),
        image_sha256=picture["sha256"],
        image_format=picture["spec"]["format"],
        remove_with_vm=True,
    )
    root = draft.inserts(
        "volume",
        id=root_id,
        project_id=asking.project_id,
        name=f"{choice.body.name}-root-{text('volume', root_id)[-6:]}",
        spec=builtins(spec),
        generation=1,
        state=volume.State.PENDING.value,
        node_id=choice.node.id,
        image_id=picture["id"],
    )
    draft.inserts(
        "attachment",
        id=asking.mint(),
        project_id=asking.project_id,
        volume_id=root_id,
        vm_id=made["id"],
        node_id=choice.node.id,
        epoch=1,
        index=0,
        state="active",
    )
    return root


def _claims(draft: Draft, asking: Asking, made: Row, root: Row, choice: _Choice) -> None:
    assert asking.project_id is not None
    node_id, needs = choice.node.id, _needs(choice.request)
    for class_, holder in (("cores", made["id"]), ("memory_mib", made["id"]), ("disk_gib", root["id"])):
        draft.inserts("allocation", holder_id=holder, **{"class": class_}, node_id=node_id, amount=needs[class_])
        draft.takes_capacity(node_id, class_, needs[class_])
    for quota_class in catalog.QuotaClass:
        draft.takes_quota(asking.project_id, quota_class.value, needs.get(quota_class.value, 0))


def _explained(decision: Ranking, nodes: Nodes, request: Request) -> dict[str, Any]:
    """Kept with the decision: why this node, which others, and what the filters refused."""
    return {
        "request": builtins(request),
        "nodes": decision.nodes,
        "passed": decision.passed,
        "filters": builtins(decision.filters),
        "ranking": [
            {"node": nodes.rows[c.index].name, "score": round(c.score, 6), "parts": c.parts} for c in decision.choices
        ],
    }


def sealed_user_data(secret_id: UUID, nonce: str, box: str, plain: str) -> Sealed:
    return Sealed(secret_id, nonce, box, hashlib.sha256(plain.encode()).hexdigest())
