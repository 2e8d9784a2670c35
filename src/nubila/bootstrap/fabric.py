"""What an empty fabric needs to run its first VM, made by the public APIs and the join token alone.

Called by `make up` once the listeners answer. Invariants: what exists is left as it is; a secret is on disk (mode 0600)
before anything rests on it; nothing here knows the database or the hypervisor.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nubila.bootstrap import guest, show
from nubila.bootstrap.children import FAKE_NODES
from nubila.bootstrap.install import Install, give_to_clone_owner, write_secret
from nubila.bootstrap.waiting import NotComing, tail
from nubila.client.transport import ProblemError, Transport, expect, segment

OPERATOR, USER, PROJECT = "admin", "demo", "default"
NETWORK, KEYPAIR, IMAGE, VM = "default", "first", "nubila-mini", "first"
# name -> cores, memory, disk
FLAVORS: dict[str, dict[str, int]] = {
    "tiny": {"cores": 1, "memory_mib": 256, "disk_gib": 1},
    "small": {"cores": 1, "memory_mib": 512, "disk_gib": 10},
    "medium": {"cores": 2, "memory_mib": 2048, "disk_gib": 20},
}
JOIN_TOKEN_S = 600
NODE_WITHIN_S = 90.0
VM_WITHIN_S = 180.0

Json = dict[str, Any]
Step = Callable[[str, Callable[[], str]], str]


def establish(install: Install, step: Step, *, with_vm: bool) -> Json:
    """All steps, in order; returns what is to be shown and remembered."""
    made = Fabric(install)
    try:
        step("first operator", made.operator)
        step("flavors", made.flavors)
        if "node" in install.settings.parts:
            step("this machine as a node", made.node)
        step("guest image in the image service", made.image)
        step("project and user", made.account)
        show.contexts(install, made.shown(with_vm=False))  # from here on the person can look for themselves
        step("key pair", made.keypair)
        step("network", made.network)
        if with_vm:
            step(f"VM '{VM}'", made.vm)
            step("its address and metadata", made.guest)
        return made.shown(with_vm=with_vm)
    finally:
        made.close()


def wished(install: Install) -> tuple[list[Json], list[Json]]:
    """All VMs and all ports, as operators see them."""
    made = Fabric(install)
    try:
        return made.all("vms"), made.all("ports")
    finally:
        made.close()


class Fabric:
    def __init__(self, install: Install) -> None:
        self.install, self.settings = install, install.settings
        self.credentials = _Credentials(install.settings.var_dir / "credentials.json")
        self._open: list[Transport] = []

    # --- as the operator

    def operator(self) -> str:
        if self.credentials.get("operator_token"):
            return ""
        file = self.settings.first_operator_file
        if not file.exists():
            raise NotComing(
                f"{self.credentials.path} holds no operator token, and {file} is used already. Restore the former, or "
                "have another operator issue a token."
            )
        body = {"secret": file.read_text().strip(), "name": OPERATOR}
        made = self._send(self._transport(self.settings.operator_url, None), "POST", "/v1/first-operator", body)
        self.credentials.put("operator_token", _secret(made))
        return f"'{OPERATOR}' made"

    def flavors(self) -> str:
        made = [n for n, spec in FLAVORS.items() if self._have(self._as_operator(), "flavors", {"name": n, **spec})[1]]
        return f"{', '.join(made)} made" if made else ""

    def join_token(self) -> str:
        """For one machine, once."""
        made = self._send(self._as_operator(), "POST", "/v1/join-tokens", {"ttl_s": JOIN_TOKEN_S})
        return str(made["token"])

    def node(self) -> str:
        """Enrol this machine by a join token, unless its agent is enrolled."""
        did, wanted = "", FAKE_NODES if self.settings.drivers == "fake" else 1
        token_file = self.settings.node_dir / "join-token"
        if not self._nodes() and not _fresh(token_file):
            guest.probe_files(self.install)
            write_secret(token_file, "".join(f"{self.join_token()}\n" for _ in range(wanted)))
            did = "enrolled"
        deadline = time.monotonic() + NODE_WITHIN_S
        while sum(n["state"] in ("running", "draining", "maintenance") for n in self._nodes()) < wanted:
            if time.monotonic() > deadline:
                log = self.install.log_dir / "agent.log"
                raise NotComing(f"the agent does not report; {log} ends with:\n{tail(log)}")
            time.sleep(0.2)
        return did

    def image(self) -> str:
        operator = self._as_operator()
        body: Json = {"name": IMAGE, "format": "qcow2", "public": True, "login": "root", "min_memory_mib": 256}
        image, _ = self._have(operator, "images", body)
        if image["state"] == "ready":
            return ""
        file = self.install.build / "guest" / "nubila-mini.qcow2"
        with file.open("rb") as source:
            path = f"/v1/images/{segment(image['id'])}/content"
            expect(operator.upload("PUT", path, source, length=file.stat().st_size, timeout_s=120))
        return f"{file.stat().st_size >> 20} MiB uploaded"

    def account(self) -> str:
        operator = self._as_operator()
        _, new_project = self._have(operator, "projects", {"name": PROJECT})
        _, new_user = self._have(operator, "users", {"name": USER})
        if self.credentials.get("user_token"):
            return ""
        self._send(operator, "PUT", f"/v1/projects/{PROJECT}/members/{USER}", {"role": "owner"})
        made = self._send(
            operator, "POST", f"/v1/users/{USER}/tokens", {"name": "first", "project": PROJECT, "role": "owner"}
        )
        self.credentials.put("user_token", _secret(made))
        return "made" if new_project or new_user else "token made"

    # --- as the user

    def keypair(self) -> str:
        key = self.install.build / "ssh" / "id_ed25519"
        if not key.exists():
            key.parent.mkdir(mode=0o700, exist_ok=True)
            new = key.with_name("id_ed25519.new")
            new.unlink(missing_ok=True)  # of a run that was killed
            comment = f"nubila-{self.settings.name}"
            subprocess.run(
                ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", new),
                check=True, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            new.with_name("id_ed25519.new.pub").rename(key.with_name("id_ed25519.pub"))
            new.rename(key)
            for path in (key.parent, key, key.with_name("id_ed25519.pub")):
                give_to_clone_owner(path, self.install.clone)
        public = key.with_name("id_ed25519.pub").read_text().strip()
        _, new_pair = self._have(self._as_user(), "keypairs", {"name": KEYPAIR, "public_key": public})
        return "made" if new_pair else ""

    def network(self) -> str:
        subnets = [{"cidr": self.install.owner.subnet4}, {"cidr": self.install.owner.subnet6}]
        _, new = self._have(self._as_user(), "networks", {"name": NETWORK, "subnets": subnets})
        return f"{subnets[0]['cidr']} and {subnets[1]['cidr']} made" if new else ""

    def vm(self) -> str:
        body = {"name": VM, "flavor": "tiny", "image": IMAGE, "networks": [NETWORK], "keys": [KEYPAIR]}
        _, new = self._have(self._as_user(), "vms", body)
        return "created" if new else ""

    def guest(self) -> str:
        """Wait until the VM has its address, has fetched its metadata and answers ssh. A stopped one stays so."""
        before, there = time.monotonic(), True
        while True:
            vm = self._vm()
            guest = (vm.get("status") or {}).get("guest") or {}
            if vm["state"] == "stopped" and vm["spec"].get("power") == "off":
                return ""
            if vm["state"] == "running" and guest.get("addressed_at") and guest.get("metadata_at"):
                break
            if time.monotonic() - before > VM_WITHIN_S:
                why = (vm.get("status") or {}).get("reason") or "no reason is known"
                raise NotComing(f"VM '{VM}' is {vm['state']} ({why}); its console ends with:\n{self._console()}")
            there = False
            time.sleep(0.25)
        while not self._ssh_answers():
            there = False
            if time.monotonic() - before > VM_WITHIN_S:
                raise NotComing(f"VM '{VM}' does not answer ssh; its console ends with:\n{self._console()}")
            time.sleep(0.25)
        return "" if there else f"there after {time.monotonic() - before:.1f} s"

    def shown(self, *, with_vm: bool) -> Json:
        answer: Json = {
            "name": self.settings.name,
            "apis": {"user": self.settings.user_url, "operator": self.settings.operator_url},
            "ca_file": str(self.settings.ca_file),
            "operator_token": self.credentials.get("operator_token"),
            "user_token": self.credentials.get("user_token"),
            "project": PROJECT,
        }
        if with_vm:
            vm = self._vm()
            answer["vm"] = {k: vm.get(k) for k in ("id", "name", "state", "addresses")}
            answer["vm"]["virt_method"] = vm.get("virt_method") or vm["spec"].get("virt_method")
            answer["ssh"] = self._ssh_command(vm)
            answer["console"] = self._console()
        return answer

    def close(self) -> None:
        for transport in self._open:
            transport.close()

    # --- parts

    def all(self, plural: str) -> list[Json]:
        """A whole list of the operators'."""
        found: list[Json] = []
        path: str | None = f"/v1/{plural}?limit=1000"
        while path:
            page = self._get(self._as_operator(), path)
            found, path = found + list(page["items"]), page.get("next")
        return found

    def _vm(self) -> Json:
        return self._get(self._as_user(), f"/v1/vms/{VM}")

    def _console(self) -> str:
        answer = self._as_user().request("GET", f"/v1/vms/{VM}/console", query={"bytes": 4000}, timeout_s=20)
        if answer.status != 200:
            return "(no console output)"
        lines = [line.rstrip() for line in answer.body.decode("utf-8", "replace").splitlines()]
        return "\n".join([line for line in lines if line][-8:])

    def _ssh_command(self, vm: Json) -> str:
        address = next((a for a in vm.get("addresses") or () if ":" not in a), "")
        if not address:
            return ""
        key = self.install.build / "ssh" / "id_ed25519"
        known = self.install.build / "known_hosts"
        return f"ssh -i {key} -o UserKnownHostsFile={known} -o StrictHostKeyChecking=accept-new root@{address}"

    def _ssh_answers(self) -> bool:
        command = self._ssh_command(self._vm()).split()
        if not command:
            return False
        known = self.install.build / "known_hosts"
        run = subprocess.run(
            (*command[:1], "-o", "BatchMode=yes", "-o", "ConnectTimeout=3", *command[1:], "true"),
            capture_output=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if known.exists():
            give_to_clone_owner(known, self.install.clone)
        return run.returncode == 0

    def _nodes(self) -> list[Json]:
        return list(self._get(self._as_operator(), "/v1/nodes")["items"])

    def _have(self, transport: Transport, plural: str, body: Json) -> tuple[Json, bool]:
        """The object of that name, made if there is none. True: it was made now."""
        path = f"/v1/{plural}/{segment(str(body['name']))}"
        if (found := self._find(transport, plural, str(body["name"]))) is not None:
            return found, False
        made = self._send(transport, "POST", f"/v1/{plural}", body)
        return (made if made.get("id") else self._get(transport, path)), True

    def _find(self, transport: Transport, plural: str, name: str) -> Json | None:
        answer = expect(transport.request("GET", f"/v1/{plural}", query={"name": name}))
        return next((i for i in answer.json()["items"] if i["name"] == name), None)

    def _get(self, transport: Transport, path: str) -> Json:
        found: Json = expect(transport.request("GET", path)).json()
        return found

    def _send(self, transport: Transport, method: str, path: str, body: Json) -> Json:
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        answer = expect(transport.request(method, path, body=json.dumps(body).encode(), headers=headers, timeout_s=60))
        sent: Json = answer.json() if answer.body else {}
        return sent

    def _as_operator(self) -> Transport:
        return self._transport(self.settings.operator_url, self.credentials.get("operator_token"))

    def _as_user(self) -> Transport:
        return self._transport(self.settings.user_url, self.credentials.get("user_token"))

    def _transport(self, url: str, token: str | None) -> Transport:
        for known in self._open:
            if known.base_url == url and token is not None:
                return known
        made = Transport(url, ca=self.settings.ca_file, token=token)
        if token is not None:
            self._open.append(made)
        return made


class _Credentials:
    """Tokens of this installation's first operator and first user, kept by root so that a lost clone loses nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, name: str) -> str | None:
        try:
            value = json.loads(self.path.read_text()).get(name)
        except FileNotFoundError:
            return None
        return str(value) if value else None

    def put(self, name: str, value: str) -> None:
        values = json.loads(self.path.read_text()) if self.path.exists() else {}
        write_secret(self.path, json.dumps(values | {name: value}, indent=1) + "\n")


def _secret(made: Json) -> str:
    """The one time that a token is shown; where it stands depends on the route."""
    for value in (made.get("secret"), made.get("token")):
        if isinstance(value, str):
            return value
        if isinstance(value, dict) and isinstance(value.get("secret"), str):
            return str(value["secret"])
    raise ProblemError({"status": 500, "slug": "unexpected-answer", "detail": "The answer holds no token."})


def _fresh(token_file: Path) -> bool:
    """A join token that the agent has not used yet, and still can."""
    try:
        return time.time() - token_file.stat().st_mtime < JOIN_TOKEN_S - 30
    except FileNotFoundError:
        return False
