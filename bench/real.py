"""A real guest: create to running through the API, beside `virsh create` of the very same domain on the same libvirtd."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench import cpu
from bench.guest import image
from bench.installation import Installation, installation


def create(made: Installation, name: str) -> float:
    """Milliseconds from the POST until GET shows the vm running."""
    user = made.tokens["user"]
    begin = time.perf_counter()
    answer = made.call(0, "POST", "/v1/vms", {"name": name, "flavor": "tiny", "image": "mini"}, user)
    made.call(0, "GET", f"/v1/operations/{answer['operation']['id']}?wait=60", token=user)
    shown = made.call(0, "GET", f"/v1/vms/{name}", token=user)
    if shown["state"] != "running":
        raise RuntimeError(f"{name} is {shown['state']}: {shown['status']}")
    return (time.perf_counter() - begin) * 1e3


def virsh(made: Installation, *words: str) -> str:
    socket = made.top / "run/node/libvirt/libvirt-sock"
    command = ["virsh", "-q", "-c", f"qemu+unix:///system?socket={socket}", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def domains(made: Installation) -> set[str]:
    return set(virsh(made, "list", "--name").split())


def ours(made: Installation, beside: str, rounds: int) -> list[float]:
    times = []
    virsh(made, "reset", beside)
    for n in range(rounds + 1):
        times.append(create(made, f"vm{n}"))
        made.call(0, "DELETE", f"/v1/vms/vm{n}?wait=30", token=made.tokens["user"])
    return times[1:]  # the first one waited for the agent


def power(made: Installation, verb: str, body: dict[str, Any] | None = None) -> None:
    user = made.tokens["user"]
    answer = made.call(0, "POST", f"/v1/vms/peer/{verb}", body, user)
    made.call(0, "GET", f"/v1/operations/{answer['operation']['id']}?wait=60", token=user)


def peer(made: Installation, beside: str, rounds: int) -> list[float]:
    """`virsh create` of a domain's own XML, with the agent away so that nobody else acts."""
    power(made, "start")
    (domain,) = domains(made) - {beside}
    xml = made.top / "peer.xml"
    xml.write_text(virsh(made, "dumpxml", "--inactive", "--security-info", domain))
    times = []
    made.processes["agent"].terminate()
    made.processes["agent"].wait(20)
    virsh(made, "reset", beside)
    for _ in range(rounds):
        virsh(made, "destroy", domain)
        begin = time.perf_counter()
        virsh(made, "create", str(xml))
        times.append((time.perf_counter() - begin) * 1e3)
    made.start("agent", "agent")
    power(made, "stop", {"mode": "hard"})
    return times


def run(quick: bool = False) -> dict[str, Any]:
    """By turns, and in both with one guest that boots beside: the machine is as busy for the one as for the other."""
    blocks, rounds = (1, 4) if quick else (4, 4)
    with installation("nbreal", "real", 1, image(), "qcow2") as made:
        out: dict[str, Any] = {}
        real_ms: list[float] = []
        virsh_ms: list[float] = []
        try:
            create(made, "beside")
            (beside,) = domains(made)
            create(made, "peer")
            power(made, "stop", {"mode": "hard"})
            out["virt_method"] = made.call(0, "GET", "/v1/vms/peer", token=made.tokens["user"])["spec"]["virt_method"]
            for _ in range(blocks):
                real_ms += ours(made, beside, rounds)
                out["agent_pss_mib"] = cpu.pss_mib(made.processes["agent"].pid)
                virsh_ms += peer(made, beside, rounds)
            out |= {"real_create_p50_ms": median(real_ms), "virsh_create_p50_ms": median(virsh_ms)}
            out["real_create_over_virsh_ms"] = out["real_create_p50_ms"] - out["virsh_create_p50_ms"]
        finally:
            clean(made)
        return out


def clean(made: Installation) -> None:
    """Every vm is removed through the API, as a user would, so that nothing stays on this machine."""
    user = made.tokens.get("user")
    if user is None:
        return
    for v in made.call(0, "GET", "/v1/vms?limit=1000", token=user)["items"]:
        made.call(0, "DELETE", f"/v1/vms/{v['id']}?wait=30", token=user)


if __name__ == "__main__":
    if not Path("/dev/net/tun").exists():
        sys.exit("bench.real needs /dev/net/tun")
    print(json.dumps(run("--quick" in sys.argv), indent=2))
