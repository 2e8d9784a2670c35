"""What a node is to have: held open until something changed for it. The answer is whole per vm."""

from __future__ import annotations

import re
import time
from typing import Any
from uuid import UUID

import msgspec

from nubila import errors, protocol
from nubila.api.context import CLOCK_S, ApiCall
from nubila.api.route import Answer
from nubila.model import security_group, vm, volume
from nubila.model.ids import parse, text
from nubila.store.database import Record
from nubila.store.seal import SeenSeal

_SEAL = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})\.([0-9a-f]{64})")


class WantedQuery(msgspec.Struct, frozen=True):
    since: int = 0
    session: int = 0
    seal: str = ""  # the newest that the node has seen


async def wanted(call: ApiCall) -> Answer:
    """What changed for this node since a revision; held open until something does."""
    c = call.context
    node_id = call.principal.node_id
    assert node_id is not None
    since, session = call.query.since, call.query.session
    until, heard, woken = time.monotonic() + call.wait_s, False, False
    while True:
        expected = c.hub.expect(f"node:{node_id}")
        try:
            # what is new is asked for when something is: most requests find nothing at first
            position = await (c.nodes.news if woken else c.nodes.position)(node_id, since)
            refuse_session(position, session)
            assert position is not None
            if not heard:  # holding its request open proves nothing of the node
                call.context.heard.note(node_id, session, since)
                _anchored(call, node_id)
                heard = True
            if not call.departed and (position["behind"] or position["asked"]):
                return Answer(body=await _answer(call, node_id, since, position if woken else None))
            left = until - time.monotonic()
            if left <= 0 or call.gate.stopping or call.departed:
                return Answer(body=_wanted(call, position))
            await call.until(expected.wait(min(left, CLOCK_S * 5)), min(left, CLOCK_S * 5) + 0.1)
            woken = True
        finally:
            expected.close()


def refuse_session(position: Record | None, session: int) -> None:
    """Raises WrongSession for a session that is not the newest, NoSession where the newest was ended."""
    if position is not None and (position["session"] or 0) < 0:
        raise errors.NoSession()
    if position is None or position["session"] != session:
        raise errors.WrongSession()


async def _answer(call: ApiCall, node_id: UUID, since: int, news: Record | None) -> protocol.Wanted:
    c = call.context
    if news is None and (news := await c.nodes.news(node_id, since)) is None:
        raise errors.WrongSession()
    vms = tuple([await _vm(call, r) for r in _rows(news["vms"])])
    questions: tuple[protocol.Question, ...] = ()
    if news["asked"]:
        questions = tuple(
            protocol.Question(
                question_id=text("question", q["id"]),
                about=q["about"],
                vm_id=text("vm", q["vm_id"]),
                max_bytes=q["max_bytes"],
            )
            for q in await c.nodes.questions(node_id, news["session"])
        )
    volumes, groups = tuple(map(_volume, _rows(news["volumes"]))), tuple(map(_group, _rows(news["groups"])))
    return _wanted(call, news, vms=vms, volumes=volumes, groups=groups, questions=questions, full=news["since"] == 0)


def _rows(encoded: str | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [] if encoded is None else msgspec.json.decode(encoded)
    return rows


def _wanted(call: ApiCall, news: Record, **changed: Any) -> protocol.Wanted:
    return protocol.Wanted(
        region=call.context.region,
        fabric_epoch=news["fabric_epoch"],
        timeline=call.context.timeline,
        session=news["session"],
        revision=news["revision"],
        seal=None if news["seal"] is None else msgspec.json.decode(news["seal"], type=protocol.Seal),
        **changed,
    )


def _anchored(call: ApiCall, node_id: UUID) -> None:
    """What the node saw of the change log, kept beside what the database says of itself."""
    found = _SEAL.fullmatch(call.query.seal)
    if found is not None and int(found[2]) > 0:
        call.context.heard.saw(node_id, SeenSeal(int(found[1]), int(found[2]), found[3]))


async def _vm(call: ApiCall, row: dict[str, Any]) -> protocol.Vm:
    spec = msgspec.convert(row["spec"], vm.Spec)
    return protocol.Vm(
        vm_id=text("vm", UUID(row["id"])),
        name=row["name"],
        epoch=row["epoch"],
        generation=row["generation"],
        project_id=text("project", UUID(row["project_id"])),
        gone=spec.gone,
        power=spec.power.value,
        stop_mode=spec.stop_mode.value,
        stop_timeout_s=spec.stop_timeout_s,
        starts=spec.starts,
        reboots=spec.reboots,
        reboot_timeout_s=spec.reboot_timeout_s,
        repairs=spec.repairs,
        resets=spec.resets,
        suspended=spec.suspended,
        on_crash=spec.on_crash.value,
        virt_method=spec.virt_method,
        cores=spec.cores,
        memory_mib=spec.memory_mib,
        cores_max=spec.cores_max,
        media=None if spec.media is None else protocol.Media(image_id=spec.media.image_id, sha256=spec.media.sha256),
        boot=vm.boot_order(spec),
        hostname=spec.hostname,
        image_id=spec.image_id,
        flavor=row["flavor"] or "",
        boot_string=spec.boot_string,
        user_data=await _user_data(call, row["user_data_secret"]),
        keys=spec.keys,
        disks=tuple(_disk(d) for d in row["disks"] if not d["leaving"]),
        leaving=tuple(_disk(d) for d in row["disks"] if d["leaving"]),
        nics=tuple(_nic(n) for n in row["nics"]),
    )


async def _user_data(call: ApiCall, secret: str | None) -> str | None:
    if secret is None:
        return None
    c, secret_id = call.context, UUID(secret)
    row = await c.accounts.secret(secret_id)
    return (
        None
        if row is None
        else c.vault.unseal(str(secret_id), bytes.fromhex(row["nonce"]), bytes.fromhex(row["sealed"])).decode()
    )


def _disk(d: dict[str, Any]) -> protocol.Disk:
    spec = msgspec.convert(d["spec"], volume.Spec)
    return protocol.Disk(
        volume_id=text("volume", UUID(d["id"])),
        attachment_id=text("attachment", UUID(d["attachment"])),
        epoch=d["epoch"],
        index=d["index"],
        driver=spec.driver,
        format=spec.format.value,
        size_gib=spec.size_gib,
        cache=spec.cache.value,
        read_iops=spec.limits.read_iops,
        write_iops=spec.limits.write_iops,
        read_bytes=spec.limits.read_bytes,
        write_bytes=spec.limits.write_bytes,
        image_id=spec.image_id,
        image_sha256=spec.image_sha256,
        image_format=spec.image_format,
        read_iops_burst=spec.limits.read_iops_burst,
        write_iops_burst=spec.limits.write_iops_burst,
        read_bytes_burst=spec.limits.read_bytes_burst,
        write_bytes_burst=spec.limits.write_bytes_burst,
        burst_s=spec.limits.burst_s,
        generation=d["generation"],
        made=d["made"],
        stays=not (spec.gone or spec.remove_with_vm),
    )


def _volume(row: dict[str, Any]) -> protocol.Volume:
    """A volume's own life; what of it its holder needs stands in the vm's wish."""
    spec = msgspec.convert(row["spec"], volume.Spec)
    a: dict[str, Any] = row["attachment"] or {"id": row["id"], "epoch": 0, "index": 0}
    holder = a.get("vm_id") if a.get("state") in ("active", "revoking") else None
    disk = {
        "id": row["id"],
        "spec": row["spec"],
        "attachment": a["id"],
        "epoch": a["epoch"],
        "index": a["index"],
        "generation": row["generation"],
        "made": row["made"],
    }
    return protocol.Volume(
        volume_id=text("volume", UUID(row["id"])),
        project_id=text("project", UUID(row["project_id"])),
        generation=row["generation"],
        epoch=a["epoch"],
        disk=_disk(disk),
        vm_id=None if holder is None else text("vm", UUID(holder)),
        source_volume_id=spec.source_volume_id,
        source_format=row["source_format"] or "qcow2",
        snapshots=tuple(
            protocol.Snapshot(snapshot_id=text("snapshot", UUID(s["id"])), gone=bool(s["gone"]))
            for s in row["snapshots"] or ()
        ),
        rollbacks=spec.rollbacks,
        rollback_to=spec.rollback_to,
        exports=tuple(protocol.Export(image_id=e.image_id, format=e.format.value) for e in spec.exports),
        gone=spec.gone,
    )


def _nic(n: dict[str, Any]) -> protocol.Nic:
    spec = n["network_spec"]
    subnets = tuple(
        protocol.SubnetView(
            subnet_id=text("subnet", UUID(s["id"])), cidr=s["cidr"], gateway=s["gateway"], dns=tuple(s["dns"] or ())
        )
        for s in n["subnets"]
    )
    network = protocol.NetworkView(
        network_id=text("network", UUID(n["network"])),
        name=n["network_name"],
        driver=spec["driver"],
        mtu=spec["mtu"],
        nat=spec["nat"],
        subnets=subnets,
    )
    return protocol.Nic(
        port_id=text("port", UUID(n["id"])),
        epoch=n["epoch"],
        index=n["spec"]["index"],
        mac=n["mac"],
        network=network,
        addresses=tuple(n["addresses"]),
        groups=tuple(text("security_group", UUID(g)) for g in n["groups"]),
        in_kbit=n["spec"].get("in_kbit", 0),
        out_kbit=n["spec"].get("out_kbit", 0),
        burst_kib=n["spec"].get("burst_kib", 0),
        leaving=tuple(n["leaving"]),
        gone=n["spec"].get("gone", False),
    )


def _group(row: dict[str, Any]) -> protocol.Group:
    spec = msgspec.convert(row["spec"], security_group.Spec)
    return protocol.Group(
        group_id=text("security_group", UUID(row["id"])),
        rules=tuple(protocol.GroupRule(**msgspec.to_builtins(r)) for r in spec.rules),
        members={text("security_group", UUID(g)): tuple(addresses) for g, addresses in row["members"].items()},
    )


async def answer_question(call: ApiCall) -> Answer:
    """The answer to a question that this node was asked."""
    c = call.context
    question_id = call.ids["question"]
    node_id = call.principal.node_id
    assert node_id is not None
    body: protocol.Answer = call.body
    if await c.nodes.answer(question_id, node_id, body.text.encode()[-131072:], body.error):
        c.notifier.tell([f"question:{question_id}"])
    return Answer(status=204)


async def image_content(call: ApiCall) -> Answer:
    """The bytes of an image that a vm of this node is made from."""
    c = call.context
    image_id = parse("image", call.params["image"])
    node_id = call.principal.node_id
    assert node_id is not None
    sha256 = None if image_id is None else await c.nodes.image_content(node_id, image_id)
    size = None if sha256 is None else await c.images.size(sha256)
    if sha256 is None or size is None:
        raise errors.NotFound("No vm of this node is made from such an image, or its content is not here.")
    return Answer(
        body=c.images.get(sha256), length=size, media="application/octet-stream", headers={"x-sha256": sha256}
    )
