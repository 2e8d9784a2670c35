"""Every command sends exactly the request that it stands for."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

import pytest

from nubila.cli import main as cli_main
from tests.cli.fake_api import OPERATOR_TOKEN, USER_TOKEN, Asked, Canned, Cli, Fake, problem

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
    (
        "node change h --maintenance --reason disks",
        OP,
        "PATCH",
        "/v1/nodes/h",
        {"maintenance": True, "maintenance_reason": "disks"},
    ),
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
    ("flavor history s", U, "/v1/flavors/s/history", True),
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
    ("node list", OP, "/v1/nodes", True),
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


def test_label_sends_all_labels_and_the_etag_it_read(cli: Cli, fake: Fake) -> None:
    fake.on("GET", "/v1/vms/web", Canned(VM, headers={"ETag": '"3.7"'}))
    fake.on("PATCH", "/v1/vms/web", Canned(MADE))
    assert cli("vm", "label", "web", "b=2", "a-").code == 0
    asked = fake.last("PATCH")
    assert asked.json == {"labels": {"b": "2"}}
    assert asked.headers["if-match"] == '"3.7"'


def test_filters_and_pages(cli: Cli, fake: Fake) -> None:
    fake.on(
        "GET",
        "/v1/vms",
        Canned({"items": [{"name": "a"}, {"name": "b"}], "next": "/v1/vms?limit=3&label=t%3Dx&after=abc"}),
        Canned({"items": [{"name": "c"}, {"name": "d"}], "next": None}),
    )
    ran = cli("vm", "list", "--label", "t=x", "--state", "running", "--limit", "3", "-o", "name")
    assert ran.out.split() == ["a", "b", "c"]
    assert fake.asked[0].query == {"label": "t=x", "state": "running", "limit": "3"}
    assert fake.asked[1].query == {"limit": "3", "label": "t=x", "after": "abc"}


def test_a_next_link_elsewhere_gets_no_token(cli: Cli, fake: Fake) -> None:
    """Only the query of a next link is used, never its host."""
    fake.on(
        "GET",
        "/v1/vms",
        Canned({"items": [], "next": "https://192.0.2.1/v1/vms?after=x"}),
        Canned({"items": [], "next": None}),
    )
    assert cli("vm", "list").code == 0
    assert [a.path for a in fake.asked] == ["/v1/vms", "/v1/vms"]


def test_names_are_one_segment(cli: Cli, fake: Fake) -> None:
    assert cli("vm", "show", "../operations/x?y").code == 3
    assert fake.asked[0].path == "/v1/vms/..%2Foperations%2Fx%3Fy"
    assert cli("vm", "show", "..").code == 2


def test_user_data_from_a_file(cli: Cli, fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "init").write_text("#cloud-config\n")
    fake.on("POST", "/v1/vms", Canned(MADE))
    cli("vm", "create", "web", "--flavor", "s", "--image", "d", "--user-data", str(tmp_path / "init"))
    assert fake.last("POST").json["user_data"] == "#cloud-config\n"


def test_if_match_and_own_key(cli: Cli, fake: Fake) -> None:
    fake.on("POST", "/v1/vms/web/start", Canned(MADE))
    cli("vm", "start", "web", "--if-match", '"1.2"', "--idempotency-key", "mine")
    assert (fake.asked[0].headers["if-match"], fake.asked[0].key) == ('"1.2"', "mine")


def test_operator_only_context_lists_as_operator(cli: Cli, fake: Fake, contexts_file: Path) -> None:
    text = contexts_file.read_text().replace(f'"user_token": "{USER_TOKEN}", ', "")
    contexts_file.write_text(text)
    fake.on("GET", "/v1/vms", Canned({"items": [], "next": None}))
    assert cli("vm", "list").code == 0
    assert fake.asked[0].headers["authorization"] == f"Bearer {OPERATOR_TOKEN}"
    ran = cli("keypair", "list")
    assert ran.code == 2
    assert "no user_token" in ran.err


def test_names_of_what_is_named_by_its_id(cli: Cli, fake: Fake) -> None:
    """-o name prints what the next command takes."""
    for noun, path in (
        ("operation", "operations"),
        ("token", "tokens"),
        ("plan", "plans"),
        ("join-token", "join-tokens"),
    ):
        fake.on("GET", f"/v1/{path}", Canned({"items": [{"id": "x-1", "name": "stop vm web"}], "next": None}))
        assert cli(noun, "list", "-o", "name").out == "x-1\n"
    fake.on("GET", "/v1/vms", Canned({"items": [{"id": "vm-1", "name": "web"}], "next": None}))
    assert cli("vm", "list", "-o", "name").out == "web\n"


def test_show_prints_the_etag_that_if_match_takes(cli: Cli, fake: Fake) -> None:
    fake.on("GET", "/v1/vms/web", Canned(VM, headers={"ETag": '"3.7"'}))
    assert "etag" in cli("vm", "show", "web").out
    shown = cli("vm", "show", "web", "--json").json
    assert shown == {**VM, "etag": "3.7"}
    fake.on("POST", "/v1/vms/web/start", Canned(MADE))
    for given, sent in ((shown["etag"], '"3.7"'), ('"3.7"', '"3.7"'), ("*", "*"), ('W/"3"', 'W/"3"')):
        cli("vm", "start", "web", "--if-match", given)
        assert fake.last("POST").headers["if-match"] == sent


def test_what_is_so_already_is_no_failure(cli: Cli, fake: Fake) -> None:
    fake.on("POST", "/v1/vms/web/start", problem(409, "conflict", "VM 'web' is running already.", already=True))
    ran = cli("vm", "start", "web")
    assert (ran.code, ran.out, ran.err) == (0, "VM 'web' is running already.\n", "")
    fake.on("POST", "/v1/vms/web/start", problem(409, "conflict", "VM 'web' is suspended already.", already=False))
    assert cli("vm", "start", "web").code == 4


def test_cancel_says_what_becomes_of_it(cli: Cli, fake: Fake) -> None:
    op = {"id": "op-1", "state": "cancelled", "spec": {"verb": "stop", "resource_name": "web"}}
    answer = {"operation": op, "cancelled": "yes", "detail": "The VM is wished running again."}
    fake.on("POST", "/v1/operations/op-1/cancel", Canned(answer))
    ran = cli("operation", "cancel", "op-1")
    assert (ran.code, ran.out) == (0, "stop web: cancelled. The VM is wished running again.\n")
    late = {"operation": {**op, "state": "done"}, "cancelled": "no", "detail": "Too late: it is done already."}
    fake.on("POST", "/v1/operations/op-1/cancel", Canned(late))
    ran = cli("operation", "cancel", "op-1")
    assert (ran.code, ran.out) == (4, "stop web: done. Too late: it is done already.\n")


def test_a_member_is_given_a_role_or_loses_it(cli: Cli, fake: Fake) -> None:
    assert cli("project", "member", "p", "ada").code == 2
    assert cli("project", "member", "p", "ada", "--role", "owner", "--remove").code == 2
    assert not fake.asked


def test_audit_says_what_was_done_to_which_row_and_fails(cli: Cli, fake: Fake) -> None:
    found = {
        "what": "altered",
        "detail": "Row 7 is not what was sealed.",
        "kind": "vm",
        "id": "vm-1",
        "actor": "user:x",
    }
    sound = {"sound": True, "rows": 9, "seals": 2, "unsealed_rows": 0, "head": "1.2.ab", "findings": []}
    fake.on("GET", "/v1/audit", Canned(sound), Canned({**sound, "sound": False, "findings": [found]}))
    ran = cli("audit", "verify", "--anchor", "1.1.aa")
    assert (ran.code, fake.asked[0].query) == (0, {"anchor": "1.1.aa"})
    assert "sound: 9 rows, 2 seals" in ran.out
    ran = cli("audit", "verify")
    assert ran.code == 1
    assert "altered: Row 7 is not what was sealed. (vm vm-1 user:x)" in ran.out


def test_a_history_reads_well(cli: Cli, fake: Fake) -> None:
    fields = [
        {"field": "state", "was": "starting", "is_now": "running"},
        {"field": "labels.tier", "was": None, "is_now": "web"},
    ]
    item = {
        "at": "2026-01-31T12:00:00.123456+00:00",
        "actor": "user:usr-1",
        "request": "req-1",
        "action": "update",
        "changes": fields,
    }
    by_hand = {**item, "actor": "changed in the database by hand", "request": None, "changes": fields[:1]}
    fake.on("GET", "/v1/vms/web/history", Canned({"items": [by_hand, item], "next": None}))
    ran = cli("vm", "history", "web")
    assert ran.out.splitlines() == [
        "2026-01-31T12:00:00.123Z  changed in the database by hand: changed",
        "    state  starting -> running",
        "2026-01-31T12:00:00.123Z  changed by user:usr-1  req-1",
        "    state        starting -> running",
        "    labels.tier  web",
    ]


def test_a_moment_goes_with_every_read(cli: Cli, fake: Fake) -> None:
    fake.on("GET", "/v1/vms/web", Canned({"changes": [{"field": "state", "was": "stopped", "is_now": "running"}]}))
    ran = cli("vm", "show", "web", "--as-of", "2026-01-31T12:00:00Z", "--until", "now")
    assert fake.asked[0].query == {"as_of": "2026-01-31T12:00:00Z", "until": "now"}
    assert ran.out == "    state  stopped -> running\n"


def test_events_are_shown_as_they_come(cli: Cli, fake: Fake) -> None:
    told = {"at": "2026-01-31T12:00:00.5+00:00", "kind": "vm", "id": "vm-1", "action": "update", "actor": "user:usr-1"}
    change = json.dumps({**told, "content": {"name": "web", "state": "running"}})
    end = json.dumps({"slug": "unauthenticated", "detail": "No valid credential."})
    lines = [
        "id: 1.2.3",
        "event: change",
        f"data: {change}",
        "",
        ": nothing new",
        "",
        "id: 1.2.3",
        "event: end",
        f"data: {end}",
        "",
        "",
    ]
    fake.on("GET", "/v1/events", Canned("\n".join(lines).encode(), headers={"Content-Type": "text/event-stream"}))
    ran = cli("events", "--kind", "vm", "--after", "1.2.2")
    assert fake.asked[0].query == {"kind": "vm", "after": "1.2.2"}
    assert ran.out == "2026-01-31T12:00:00.500Z vm web changed by user:usr-1: running\n"
    assert (ran.code, "No valid credential." in ran.err) == (5, True)


def sse(*events: tuple[str, dict[str, object]]) -> Canned:
    text = "".join(f"id: 1.{n}.1\nevent: {name}\ndata: {json.dumps(data)}\n\n" for n, (name, data) in enumerate(events))
    return Canned(text.encode(), headers={"Content-Type": "text/event-stream"})


def test_a_watched_list_goes_on_with_what_became_another_one(cli: Cli, fake: Fake) -> None:
    a = {"id": "vm-1", "kind": "vm", "name": "a", "state": "starting", "created_at": "2026-01-01T00:00:00Z"}
    b, up = {**a, "id": "vm-2", "name": "b"}, {**a, "state": "running"}
    fake.on("GET", "/v1/vms", *(Canned({"items": i, "next": None}) for i in ([a, b], [up, b], [up, b], [up])))
    change: tuple[str, dict[str, object]] = ("change", {})

    def connection(asked: Asked) -> Canned:
        """Each ends by itself, and is taken up again; the next event comes when the list was read again."""
        number = len([x for x in fake.asked if x.path == "/v1/events"])
        for _ in range(200):
            if len([x for x in fake.asked if x.path == "/v1/vms"]) >= number - 1:
                break
            time.sleep(0.02)
        ends = [("end", {"detail": "revoked"})] if number == 4 else []
        return sse(("begin", {}) if number == 1 else change, *ends)

    fake.on("GET", "/v1/events", connection)
    ran = cli("vm", "list", "--watch")
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[0][:3] == ["NAME", "ID", "STATE"]
    seen = [line[:3] for line in lines[1:]]
    assert ["b", "vm-2", "starting"] in seen
    assert seen[-2:] == [["a", "vm-1", "running"], ["b", "is", "gone"]]
    assert seen.count(["b", "vm-2", "starting"]) == 1  # what stayed as it was is not said again
    assert "revoked" in ran.err
    assert {a.query["kind"] for a in fake.asked if a.path == "/v1/events"} <= {"vm", "port"}


def test_what_cannot_be_watched_is_said(cli: Cli, fake: Fake) -> None:
    assert "the past does not change" in cli("vm", "list", "--watch", "--as-of", "2026-01-31T12:00:00Z").err
    assert "plans are not in the change log" in cli("plan", "list", "--watch").err
    fake.on("GET", "/v1/events", problem(400, "bad-request", "There are no events of the kind 'flavor' here."))
    assert "no events of the kind 'flavor'" in cli("flavor", "list", "--watch").err
