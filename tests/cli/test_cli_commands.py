"""Every command sends exactly the request that it stands for."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from nubila.cli import main as cli_main
from tests.cli.fake_api import OPERATOR_TOKEN, USER_TOKEN, Canned, Cli, Fake

DONE = {"id": "op-1", "kind": "operation", "state": "done", "spec": {"verb": "create"}}
VM = {"id": "vm-1", "kind": "vm", "name": "web", "state": "running", "addresses": ["10.0.0.5"], "labels": {"a": "1"}}
MADE = {"vm": VM, "operation": DONE}


def obj(kind: str, **more: Any) -> dict[str, Any]:
    return {"id": f"{kind}-1", "kind": kind, "name": "x", **more}


U, OP = "user", "operator"
# command line, plane, method, path, body
WRITES: tuple[tuple[str, str, str, str, Any], ...] = (
    ("vm create web --flavor s --image d", U, "POST", "/v1/vms", {"name": "web", "flavor": "s", "image": "d"}),
    (
        "vm create web --flavor s --image d --network a --network b --key k --label x=1 --label y=2 --hostname h"
        " --disk-gib 5 --power off --virt-method kvm --boot-string ks=1",
        U,
        "POST",
        "/v1/vms",
        {
            "name": "web",
            "flavor": "s",
            "image": "d",
            "networks": ["a", "b"],
            "keys": ["k"],
            "labels": {"x": "1", "y": "2"},
            "hostname": "h",
            "disk_gib": 5,
            "power": "off",
            "virt_method": "kvm",
            "boot_string": "ks=1",
        },
    ),
    ("vm start web", U, "POST", "/v1/vms/web/start", None),
    ("vm stop web", U, "POST", "/v1/vms/web/stop", {"mode": "clean"}),
    ("vm stop web --shutdown-timeout 9", U, "POST", "/v1/vms/web/stop", {"mode": "clean", "timeout_s": 9.0}),
    ("vm stop web --hard", U, "POST", "/v1/vms/web/stop", {"mode": "hard"}),
    ("vm start vm-1 --as operator", OP, "POST", "/v1/vms/vm-1/start", None),
    ("vm stop vm-1 --hard --as operator", OP, "POST", "/v1/vms/vm-1/stop", {"mode": "hard"}),
    ("vm reboot vm-1 --as operator", OP, "POST", "/v1/vms/vm-1/reboot", None),
    ("vm delete vm-1 --as operator", OP, "DELETE", "/v1/vms/vm-1", None),
    ("vm reboot web", U, "POST", "/v1/vms/web/reboot", None),
    ("vm reset web", U, "POST", "/v1/vms/web/reset", None),
    ("vm suspend web", U, "POST", "/v1/vms/web/suspend", None),
    ("vm resume web", U, "POST", "/v1/vms/web/resume", None),
    ("vm set web --on-crash stop", U, "PATCH", "/v1/vms/web", {"on_crash": "stop"}),
    (
        "vm set web --cores 2 --memory-mib 512 --flavor s",
        U,
        "PATCH",
        "/v1/vms/web",
        {"cores": 2, "memory_mib": 512, "flavor": "s"},
    ),
    ("vm insert web d13", U, "POST", "/v1/vms/web/insert", {"image": "d13"}),
    ("vm eject web", U, "POST", "/v1/vms/web/eject", None),
    ("vm rescue web grml", U, "POST", "/v1/vms/web/rescue", {"image": "grml"}),
    ("vm unrescue web", U, "POST", "/v1/vms/web/unrescue", None),
    ("vm set web --boot cdrom,disk", U, "PATCH", "/v1/vms/web", {"boot": ["cdrom", "disk"]}),
    ("vm protect web", U, "PATCH", "/v1/vms/web", {"protected": True}),
    ("vm unprotect web", U, "PATCH", "/v1/vms/web", {"protected": False}),
    ("vm hold web --why audit", U, "POST", "/v1/vms/web/hold", {"reason": "audit"}),
    ("vm hold vm-1 --why audit --as operator", OP, "POST", "/v1/vms/vm-1/hold", {"reason": "audit"}),
    ("vm unhold web", U, "POST", "/v1/vms/web/unhold", None),
    ("vm rename web www", U, "PATCH", "/v1/vms/web", {"name": "www"}),
    ("vm delete web", U, "DELETE", "/v1/vms/web", None),
    (
        "volume create d --size-gib 5 --format raw --for-vm web --cache none --limit read_iops=9 --label a=b",
        U,
        "POST",
        "/v1/volumes",
        {
            "name": "d",
            "size_gib": 5,
            "format": "raw",
            "for_vm": "web",
            "cache": "none",
            "limits": {"read_iops": 9},
            "labels": {"a": "b"},
        },
    ),
    ("volume create e --source d", U, "POST", "/v1/volumes", {"name": "e", "source": "d"}),
    ("volume attach d web", U, "POST", "/v1/volumes/d/attach", {"vm": "web"}),
    ("volume detach d", U, "POST", "/v1/volumes/d/detach", None),
    ("volume resize d 9", U, "PATCH", "/v1/volumes/d", {"size_gib": 9}),
    (
        "volume change d --limit write_bytes=5 --no-remove-with-vm",
        U,
        "PATCH",
        "/v1/volumes/d",
        {"limits": {"write_bytes": 5}, "remove_with_vm": False},
    ),
    ("volume roll-back d s", U, "POST", "/v1/volumes/d/roll-back", {"snapshot": "s"}),
    ("volume delete d", U, "DELETE", "/v1/volumes/d", None),
    ("snapshot create s --volume d", U, "POST", "/v1/volumes/d/snapshots", {"name": "s"}),
    ("snapshot delete s", U, "DELETE", "/v1/snapshots/s", None),
    ("plan apply plan-1", U, "POST", "/v1/plans/plan-1/apply", None),
    ("plan apply plan-1 --as operator", OP, "POST", "/v1/plans/plan-1/apply", None),
    ("plan discard plan-1", U, "DELETE", "/v1/plans/plan-1", None),
    ("operation cancel op-1", U, "POST", "/v1/operations/op-1/cancel", None),
    ("keypair delete k", U, "DELETE", "/v1/keypairs/k", None),
    (
        "network create n --subnet 10.1.0.0/24 --subnet fd00::/64 --gateway 10.1.0.9 --dns 1.1.1.1 --dns 2606::1"
        " --no-nat",
        U,
        "POST",
        "/v1/networks",
        {
            "name": "n",
            "nat": False,
            "subnets": [
                {"cidr": "10.1.0.0/24", "gateway": "10.1.0.9", "dns": ["1.1.1.1"]},
                {"cidr": "fd00::/64", "dns": ["2606::1"]},
            ],
        },
    ),
    (
        "security-group create web --rule 'in tcp:80-90 from any' --rule 'out any to group:db' --description d",
        U,
        "POST",
        "/v1/security-groups",
        {
            "name": "web",
            "description": "d",
            "rules": [
                {"direction": "in", "protocol": "tcp", "port_min": 80, "port_max": 90},
                {"direction": "out", "protocol": "any", "group": "db"},
            ],
        },
    ),
    ("security-group change web --name www", U, "PATCH", "/v1/security-groups/web", {"name": "www"}),
    (
        "port change port-1 --security-group web --in-kbit 9 --out-kbit 8 --burst-kib 7",
        U,
        "PATCH",
        "/v1/ports/port-1",
        {"security_groups": ["web"], "in_kbit": 9, "out_kbit": 8, "burst_kib": 7},
    ),
    (
        "port add web --network back --security-group web --in-kbit 9",
        U,
        "POST",
        "/v1/vms/web/ports",
        {"network": "back", "security_groups": ["web"], "in_kbit": 9},
    ),
    ("port remove port-1", U, "DELETE", "/v1/ports/port-1", None),
    ("port assign port-1 10.0.0.7", U, "POST", "/v1/ports/port-1/addresses", {"address": "10.0.0.7"}),
    ("port assign port-1 --family 6", U, "POST", "/v1/ports/port-1/addresses", {"family": 6}),
    ("port unassign port-1 10.0.0.7", U, "DELETE", "/v1/ports/port-1/addresses/10.0.0.7", None),
    ("security-group delete web", U, "DELETE", "/v1/security-groups/web", None),
    ("network delete n", U, "DELETE", "/v1/networks/n", None),
    ("network delete net-1 --as operator", OP, "DELETE", "/v1/networks/net-1", None),
    ("node retire h", OP, "DELETE", "/v1/nodes/h", None),
    ("join-token delete join-1", OP, "DELETE", "/v1/join-tokens/join-1", None),
    ("user delete ada", OP, "DELETE", "/v1/users/ada", None),
    ("operator delete grace", OP, "DELETE", "/v1/operators/grace", None),
    (
        "operator token grace t --expires-in 60",
        OP,
        "POST",
        "/v1/operators/grace/tokens",
        {"name": "t", "expires_in_s": 60},
    ),
    ("project member p ada --remove", OP, "DELETE", "/v1/projects/p/members/ada", None),
    (
        "token create t --role reader --expires-in 60",
        U,
        "POST",
        "/v1/tokens",
        {"name": "t", "role": "reader", "expires_in_s": 60},
    ),
    ("token delete tok-1", U, "DELETE", "/v1/tokens/tok-1", None),
    ("token delete tok-1 --as operator", OP, "DELETE", "/v1/tokens/tok-1", None),
    ("project create p --description d", OP, "POST", "/v1/projects", {"name": "p", "description": "d"}),
    ("project change p --suspended", OP, "PATCH", "/v1/projects/p", {"suspended": True}),
    ("project delete p", OP, "DELETE", "/v1/projects/p", None),
    ("project member p ada --role owner", OP, "PUT", "/v1/projects/p/members/ada", {"role": "owner"}),
    ("quota set p vms=5 cores=9", OP, "PUT", "/v1/projects/p/quota", {"quota": {"vms": 5, "cores": 9}}),
    ("user create ada --email a@b", OP, "POST", "/v1/users", {"name": "ada", "email": "a@b"}),
    ("user change ada --no-suspended", OP, "PATCH", "/v1/users/ada", {"suspended": False}),
    (
        "user token ada t --project p --role member",
        OP,
        "POST",
        "/v1/users/ada/tokens",
        {"name": "t", "project": "p", "role": "member"},
    ),
    ("operator create grace", OP, "POST", "/v1/operators", {"name": "grace"}),
    (
        "flavor create s --cores 1 --memory-mib 512 --disk-gib 4",
        OP,
        "POST",
        "/v1/flavors",
        {"name": "s", "cores": 1, "memory_mib": 512, "disk_gib": 4},
    ),
    ("flavor delete s", OP, "DELETE", "/v1/flavors/s", None),
    (
        "image create i --from-vm web --login debian",
        U,
        "POST",
        "/v1/images",
        {"name": "i", "format": "qcow2", "vm": "web", "login": "debian"},
    ),
    (
        "image create i --from-volume data --format raw --label a=b",
        U,
        "POST",
        "/v1/images",
        {"name": "i", "format": "raw", "volume": "data", "labels": {"a": "b"}},
    ),
    ("image delete i", U, "DELETE", "/v1/images/i", None),
    ("image delete i --as operator", OP, "DELETE", "/v1/images/i", None),
    ("image share i prj-1", U, "PUT", "/v1/images/i/shares/prj-1", {"right": "use"}),
    ("image unshare i prj-1 --as operator", OP, "DELETE", "/v1/images/i/shares/prj-1", None),
    (
        "image fetch https://x/y.iso --name i --format iso --sha256 00",
        U,
        "POST",
        "/v1/images",
        {"name": "i", "format": "iso", "url": "https://x/y.iso", "sha256": "00"},
    ),
    (
        "join-token create --ttl 60 --role hypervisor",
        OP,
        "POST",
        "/v1/join-tokens",
        {"ttl_s": 60, "roles": ["hypervisor"]},
    ),
    ("node drain h --reason disks", OP, "POST", "/v1/nodes/h/drain", {"reason": "disks"}),
    ("node maintenance h", OP, "POST", "/v1/nodes/h/maintenance", {"reason": ""}),
    ("node return h", OP, "POST", "/v1/nodes/h/return", None),
    ("node lost h --reason fire", OP, "POST", "/v1/nodes/h/lost", {"reason": "fire"}),
    (
        "node change h --zone a --role hypervisor --role storage --address storage=10.2.0.7 --address backup=",
        OP,
        "PATCH",
        "/v1/nodes/h",
        {"zone": "a", "roles": ["hypervisor", "storage"], "addresses": {"storage": "10.2.0.7", "backup": None}},
    ),
    ("node change h --rack r1 --other-machine", OP, "PATCH", "/v1/nodes/h", {"rack": "r1", "other_machine": True}),
    ("join-token create --ask", OP, "POST", "/v1/join-tokens", {"approve": False}),
    ("node approve h", OP, "POST", "/v1/nodes/h/approve", None),
    ("drift repair drf-1", OP, "POST", "/v1/drifts/drf-1/repair", None),
    ("drift adopt drf-1", OP, "POST", "/v1/drifts/drf-1/adopt", None),
    (
        "drift ignore drf-1 --hours 3 --reason known",
        OP,
        "POST",
        "/v1/drifts/drf-1/ignore",
        {"hours": 3, "reason": "known"},
    ),
    ("drift heed drf-1", OP, "DELETE", "/v1/drifts/drf-1/ignore", None),
)
# these show a secret, or are a plan's own
UNPLANNED = ("plan apply", "plan discard", "token create", "user token", "operator token", "join-token create")
# command line, plane, path, answer is a list
READS: tuple[tuple[str, str, str, bool], ...] = (
    ("vm list", U, "/v1/vms", True),
    ("port show port-1", U, "/v1/ports/port-1", False),
    ("security-group list", U, "/v1/security-groups", True),
    ("security-group show web", U, "/v1/security-groups/web", False),
    ("vm list --as operator", OP, "/v1/vms", True),
    ("vm show web", U, "/v1/vms/web", False),
    ("vm history web", U, "/v1/vms/web/history", True),
    ("network history n", U, "/v1/networks/n/history", True),
    ("keypair history k", U, "/v1/keypairs/k/history", True),
    ("flavor history s", OP, "/v1/flavors/s/history", True),
    ("volume history data", U, "/v1/volumes/data/history", True),
    ("snapshot history snap-1", U, "/v1/snapshots/snap-1/history", True),
    ("port history port-1", U, "/v1/ports/port-1/history", True),
    ("security-group history g", U, "/v1/security-groups/g/history", True),
    ("operator history root", OP, "/v1/operators/root/history", True),
    ("drift history drift-1", OP, "/v1/drifts/drift-1/history", True),
    ("image history i --as operator", OP, "/v1/images/i/history", True),
    ("project history p", OP, "/v1/projects/p/history", True),
    ("node history h", OP, "/v1/nodes/h/history", True),
    ("user history ada", OP, "/v1/users/ada/history", True),
    ("operation history op-1", U, "/v1/operations/op-1/history", True),
    ("vm placement web", U, "/v1/vms/web/placement", False),
    ("vm boot-string web", U, "/v1/vms/web/boot-string", False),
    ("vm user-data web", U, "/v1/vms/web/user-data", False),
    ("operation list", U, "/v1/operations", True),
    ("operation show op-1", U, "/v1/operations/op-1", False),
    ("operation why op-1", U, "/v1/operations/op-1/why", False),
    ("plan list", U, "/v1/plans", True),
    ("flavor show s", U, "/v1/flavors/s", False),
    ("image show i", U, "/v1/images/i", False),
    ("operator show grace", OP, "/v1/operators/grace", False),
    ("project members p", OP, "/v1/projects/p/members", True),
    ("join-token list", OP, "/v1/join-tokens", True),
    ("network show n --as operator", OP, "/v1/networks/n", False),
    ("user show ada", OP, "/v1/users/ada", False),
    ("volume list --as operator", OP, "/v1/volumes", True),
    ("plan show plan-1", U, "/v1/plans/plan-1", False),
    ("keypair list", U, "/v1/keypairs", True),
    ("keypair show k", U, "/v1/keypairs/k", False),
    ("flavor list", U, "/v1/flavors", True),
    ("flavor list --as operator", OP, "/v1/flavors", True),
    ("image list", U, "/v1/images", True),
    ("network list", U, "/v1/networks", True),
    ("network show n", U, "/v1/networks/n", False),
    ("port list", U, "/v1/ports", True),
    ("volume list", U, "/v1/volumes", True),
    ("volume show d", U, "/v1/volumes/d", False),
    ("snapshot list", U, "/v1/snapshots", True),
    ("snapshot show s", U, "/v1/snapshots/s", False),
    ("project show", U, "/v1/project", False),
    ("project list", OP, "/v1/projects", True),
    ("token list", U, "/v1/tokens", True),
    ("me", U, "/v1/me", False),
    ("me --as operator", OP, "/v1/me", False),
    ("drift list", OP, "/v1/drifts", True),
    ("drift list --cause foreign --node h", OP, "/v1/drifts", True),
    ("drift show drf-1", OP, "/v1/drifts/drf-1", False),
    ("orphans list", OP, "/v1/drifts", True),
    ("parked list", OP, "/v1/parked", True),
    ("decision list", OP, "/v1/decisions", True),
    ("decision list --refused", OP, "/v1/decisions", True),
    ("node list", OP, "/v1/nodes", True),
    ("node list --zone a --rack r1", OP, "/v1/nodes", True),
    ("node show h", OP, "/v1/nodes/h", False),
    ("user list", OP, "/v1/users", True),
    ("operator list", OP, "/v1/operators", True),
    ("quota show p", OP, "/v1/projects/p/quota", False),
)
TOKEN = {U: USER_TOKEN, OP: OPERATOR_TOKEN}


@pytest.mark.parametrize(("line", "plane", "method", "path", "body"), WRITES, ids=[w[0] for w in WRITES])
def test_write(cli: Cli, fake: Fake, line: str, plane: str, method: str, path: str, body: Any) -> None:
    kind = "vm" if "vm" in path else path.split("/")[2].rstrip("s")
    fake.on(method, path, Canned(MADE if kind == "vm" else {**obj(kind), "secret": "s3", "token": "nbj_1_2_3"}))
    ran = cli(*shlex.split(line))
    assert (ran.code, ran.err) == (0, "")
    asked = fake.asked[0]
    assert (asked.method, asked.path, asked.json) == (method, path, body)
    assert asked.headers["authorization"] == f"Bearer {TOKEN[plane]}"
    assert asked.key is not None
    assert len(asked.key) == 36
    assert "secret" not in ran.err
    assert TOKEN[plane] not in ran.out + ran.err


@pytest.mark.slow
@pytest.mark.parametrize("line", [w[0] for w in WRITES if not w[0].startswith(UNPLANNED)])
def test_every_write_can_be_planned(cli: Cli, fake: Fake, line: str) -> None:
    method, path = next((w[2], w[3]) for w in WRITES if w[0] == line)
    fake.on(method, path, Canned({"id": "plan-7", "effects": [], "quota_left": {}}))
    ran = cli(*shlex.split(line), "--plan")
    assert ran.code == 0
    assert fake.asked[0].query == {"plan": "1"}
    assert "nubila plan apply plan-7" in ran.out


@pytest.mark.parametrize(("line", "plane", "path", "many"), READS, ids=[r[0] for r in READS])
def test_read(cli: Cli, fake: Fake, line: str, plane: str, path: str, many: bool) -> None:
    found = {"id": "x-1", "kind": "x", "name": "thing", "state": "running", "quota": {"vms": {"limit": 4, "used": 1}}}
    sent = {"items": [found], "next": None} if many else found
    fake.on("GET", path, Canned(sent))
    ran = cli(*shlex.split(line))
    assert (ran.code, ran.err) == (0, "")
    assert fake.asked[0].path == path
    assert fake.asked[0].headers["authorization"] == f"Bearer {TOKEN[plane]}"
    assert cli(*line.split(), "--json").json == sent


def test_every_command_is_tried() -> None:
    tried = {" ".join(line.split()[:2]) for line in [w[0] for w in WRITES] + [r[0] for r in READS]}
    elsewhere = {
        *(f"context {v}" for v in ("list", "show", "use", "add", "delete")),
        *("vm console", "vm ssh", "vm label", "operation wait", "audit verify", "keypair create", "image upload"),
    }
    flags = {"--help", "-h", "--version"}
    root = cli_main.root()
    known = set()
    for noun in cli_main.NOUNS:
        verbs = [v for v in root[noun] if v not in flags]
        known |= {f"{noun} {v}" for v in verbs}
    assert known - tried - elsewhere == set()


@pytest.mark.slow
def test_every_command_has_help_with_an_example(cli: Cli) -> None:
    root = cli_main.root()
    for noun in cli_main.NOUNS:
        for verb in [v for v in root[noun] if not v.startswith("-")] or [""]:
            ran = cli(*[w for w in (noun, verb, "--help") if w])
            assert ran.code == 0
            assert f"  nubila {noun} {verb}".rstrip() in ran.out or "| nubila" in ran.out, (noun, verb)
