"""A node played by the test: enrolled like any, it says exactly what it is told to, when it is told to."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nubila.model.ids import parse
from tests.fleet.caller import Caller, Reply
from tests.fleet.installation import Installation
from tests.fleet.tenant import Tenant

_NUMBER = itertools.count(1)
ROOT = "/internal/v1"


class Puppet:
    """`method` is a virt method that only this node offers, so that exactly the VMs that ask for it land here. `joins`: what
    else its join token says."""

    def __init__(self, cloud: Installation, **joins: Any):
        self.cloud = cloud
        self.method = f"puppet{next(_NUMBER)}"
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.token = cloud.operator().post("/v1/join-tokens", {"name": self.method, **joins}).ok()["token"]
        enrolled = self.enrol().ok()
        self.id: str = enrolled["node_id"]
        self.region = enrolled["region"]
        file = cloud.top / f"{self.method}.pem"
        pem = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_text(enrolled["certificate_pem"] + pem.decode())
        self.caller = Caller(cloud.settings.internal_port, cloud.settings.ca_file, certificate=file)
        self.session = 0
        self.open()

    def enrol(self, key: ec.EllipticCurvePrivateKey | None = None) -> Reply:
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key or self.key, hashes.SHA256())
        body = {
            "token": self.token,
            "csr_pem": csr.public_bytes(serialization.Encoding.PEM).decode(),
            "fqdn": f"{self.method}.example",
        }
        return self.cloud.caller("internal").post(f"{ROOT}/enrol", body)

    def open(self, **says: Any) -> int:
        """A new session: what an agent does when it starts."""
        self.session = self.caller.post(f"{ROOT}/sessions", self.hello(**says)).ok()["session"]
        return self.session

    def hello(self, **says: Any) -> dict[str, Any]:
        return {
            "protocol": 1, "agent_version": "0", "fqdn": f"{self.method}.example", "boot_id": "b", "kernel": "k", "cores": 64, "memory_mib": 65536,
            "disk_gib": 1000, "virt_methods": [self.method], "drivers": {"hypervisor": {"fake": {}}}, **says,
        }  # fmt: skip

    def wanted(self, since: int = 0) -> dict[str, Any]:
        answer: dict[str, Any] = self.caller.get(f"{ROOT}/wanted?since={since}&session={self.session}").ok()
        return answer

    def wish(self, vm_id: str) -> dict[str, Any]:
        """What the node is told of a vm, defaults filled in."""
        found = {v["vm_id"]: v for v in self.wanted()["vms"]}[vm_id]
        return {"power": "on", "gone": False, "starts": 1, "reboots": 0, **found}

    def report(self, *vms: dict[str, Any], session: int | None = None) -> Reply:
        body = {
            "session": self.session if session is None else session,
            "fabric_epoch": 1,
            "revision": 0,
            "vms": list(vms),
        }
        return self.caller.post(f"{ROOT}/reports", body)

    def as_wished(self, vm_id: str, **more: Any) -> dict[str, Any]:
        """A report that everything is as the newest wish says."""
        w = self.wish(vm_id)
        said = {
            "vm_id": vm_id, "epoch": w["epoch"], "generation": w["generation"], "power": w["power"], "starts": w["starts"], "reboots": w["reboots"],
            "gone": w["gone"], "disks_ready": [d["volume_id"] for d in w["disks"]], "ports_active": [n["port_id"] for n in w["nics"]],
        }  # fmt: skip
        return {**said, **more}

    def fulfil(self, vm_id: str) -> None:
        assert self.report(self.as_wished(vm_id)).ok()["taken"] == 1

    def running(self, tenant: Tenant, name: str) -> str:
        """A VM that this node says it runs."""
        self.revive()  # however long ago its last test was
        vm_id: str = tenant.create(name, virt_method=self.method)["vm"]["id"]
        self.fulfil(vm_id)
        assert tenant.vm(name)["state"] == "running"
        return vm_id

    def silent_for(self, seconds: int) -> None:
        """Move the last sign of life back, as if so much time had gone by."""
        self.cloud.sql(
            "update node_seen set seen_at = now() - make_interval(secs => $2) where node_id = $1",
            parse("node", self.id),
            float(seconds),
        )

    def revive(self) -> None:
        """As if it had just been heard from; what is really heard is written down every two seconds only."""
        self.silent_for(0)

    def retire(self) -> None:
        """Nothing new comes here any more."""
        self.cloud.operator().patch(f"/v1/nodes/{self.id}", {"maintenance": True}).ok()


@contextlib.contextmanager
def puppet_of(cloud: Installation) -> Iterator[Puppet]:
    made = Puppet(cloud)
    try:
        yield made
    finally:
        made.retire()
