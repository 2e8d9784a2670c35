"""A node of a measurement's own: enrolled like any, it asks and reports when it is told to."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench.installation import Installation
from nubila.agent import enrol
from nubila.client.transport import Transport
from nubila.protocol import Hello, Reported, Reports, VmReport, Wanted, Welcome


class Node:
    """`name` is its name and the one virt method that it offers, so that exactly the VMs that ask for it come here."""

    def __init__(self, made: Installation, operator: str, name: str):
        directory = made.top / f"{name}-node"
        directory.mkdir(mode=0o700)
        token = directory / "join"
        token.write_text(made.call(1, "POST", "/v1/join-tokens", {"name": name}, operator)["token"] + "\n")
        url = f"https://127.0.0.1:{made.ports[2]}"
        identity = enrol.enrol(directory / "identity", url, token, name)
        self.wire = Transport(url, ca=made.ca, certificate=identity.certificate, timeout_s=60)
        hello = Hello(
            protocol=1, agent_version="bench", fqdn=name, boot_id="b", kernel="k", cores=4096, memory_mib=1 << 24,
            disk_gib=1 << 20, virt_methods=(name,), drivers={"hypervisor": {name: {}}},
        )  # fmt: skip
        answer = self.wire.request("POST", "/internal/v1/sessions", body=msgspec.json.encode(hello))
        self.session = msgspec.json.decode(answer.body, type=Welcome).session

    def wanted(self, since: int = 0, wait_s: float = 0) -> Wanted:
        query = {"since": since, "session": self.session, "wait": wait_s}
        answer = self.wire.request("GET", "/internal/v1/wanted", query=query, timeout_s=wait_s + 20)
        return msgspec.json.decode(answer.body, type=Wanted)

    def report(self, vms: Sequence[VmReport]) -> None:
        """All of them in one message. Raises when one is refused."""
        body = Reports(session=self.session, fabric_epoch=1, revision=0, vms=tuple(vms))
        headers = {"Content-Type": "application/json"}
        answer = self.wire.request("POST", "/internal/v1/reports", body=msgspec.json.encode(body), headers=headers)
        if answer.status != 200 or msgspec.json.decode(answer.body, type=Reported).taken != len(vms):
            raise RuntimeError(answer.body.decode()[:500])
