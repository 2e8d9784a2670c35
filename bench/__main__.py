"""`python -m bench [--quick]`: all measurements, a table on the terminal, build/bench.json for machines."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from typing import Any

from bench import fake, log, past, real, rules
from bench.installation import ROOT

# name -> (unit, what it is, aim, not acceptable beyond); a number with '>' must be larger
GOALS: dict[str, tuple[str, str, str, str]] = {
    "fake_create_p50_ms": ("ms", "create to running, fake driver, one at a time", "10", "40"),
    "fake_create_c50_p99_ms": ("ms", "the same, 50 in parallel, 99th percentile", "100", ""),
    "vm_per_s": ("/s", "creates to running, 50 in parallel, median of the rounds", ">500", ">100"),
    "spin_ms": ("ms", "floor: a fixed loop on two cores at once, which the host's other work slows", "", ""),
    "cpu_ms_per_vm": ("ms", "CPU of APIs, agent and PostgreSQL per vm", "4", ""),
    "load_generator_cpu_ms_per_vm": ("ms", "CPU of the load generator, counted apart", "", ""),
    "wakeup_p50_ms": ("ms", "commit to the node's long poll answered", "2", "10"),
    "wakeup_p99_ms": ("ms", "the same, 99th percentile", "10", ""),
    "raw_notify_p50_ms": ("ms", "floor: INSERT and NOTIFY to a listener", "", ""),
    "real_create_over_virsh_ms": ("ms", "real create, over virsh create of the same XML", "15", "150"),
    "real_create_p50_ms": ("ms", "real create to running", "", ""),
    "virsh_create_p50_ms": ("ms", "peer: virsh create", "", ""),
    "as_of_page_ms": ("ms", "?as_of=, 100 of 100,000 VMs", "100", "300"),
    "as_of_project_page_ms": ("ms", "?as_of=, a project of 100 among 100,000 VMs", "100", "300"),
    "present_page_ms": ("ms", "peer: the same page of the present", "", ""),
    "present_project_page_ms": ("ms", "peer: the same of the project", "", ""),
    "reports_changed_cores": ("cores", "1,000 VMs reported each second, each time something new", "0.1", "1"),
    "reports_same_cores": ("cores", "the same, everything as it was", "0.02", "0.5"),
    "reports_peer_cores": ("cores", "peer: the same rows changed by one statement, unlogged", "", ""),
    "log_cpu_ms_per_vm": ("ms", "CPU of the change log per create", "1", ""),
    "seal_cpu_ms_per_vm": ("ms", "CPU of sealing it", "1", ""),
    "unlogged_cpu_ms_per_vm": ("ms", "peer: PostgreSQL's CPU of the same create without the log", "", ""),
    "log_bytes_per_vm": ("B", "bytes of the log and its indexes per create", "8000", ""),
    "rules_1000_ports_s": ("s", "rules of 1,000 ports loaded by an agent that starts", "2", ""),
    "rule_1000_ports_ms": ("ms", "a rule more in a group of 1,000 ports", "100", "1000"),
    "nft_f_1000_ports_s": ("s", "peer: nft -f of the same rules", "", ""),
    "ports_1000_new_s": ("s", "1,000 ports made with their taps, 8 at a time", "", ""),
    "control_pss_mib": ("MiB", "two control-plane processes", "512", ""),
    "agent_pss_mib": ("MiB", "agent with libvirt, lxml, TLS and netlink", "60", "80"),
}


def verdict(value: float, aim: str, limit: str) -> str:
    def met(bound: str) -> bool:
        return value > float(bound[1:]) if bound.startswith(">") else value <= float(bound)

    if aim and met(aim):
        return "met"
    if limit and not met(limit):
        return "BEYOND THE LIMIT"
    return "open" if aim else ""


PARTS: tuple[Callable[[bool], dict[str, Any]], ...] = (fake.run, real.run, past.run, log.run, rules.run)


def main() -> int:
    quick = "--quick" in sys.argv
    results: dict[str, Any] = {"machine": platform.platform(), "quick": quick}
    (ROOT / "build").mkdir(exist_ok=True)
    print(f"{'measure':32}{'value':>10} {'unit':5}{'aim':>7}{'limit':>7}  verdict", flush=True)
    for part in PARTS:
        found = part(quick)
        results |= found
        # what was measured stays, whatever becomes of the parts that follow
        (ROOT / "build/bench.json").write_text(json.dumps(results, indent=2) + "\n")
        for name, (unit, words, aim, limit) in GOALS.items():
            if name in found:
                row = f"{found[name]:>10.2f} {unit:5}{aim:>7}{limit:>7}  {verdict(found[name], aim, limit):18}{words}"
                print(f"{name:32}{row}", flush=True)
    print(
        f"fsync={results['fsync']} synchronous_commit={results['synchronous_commit']} virt_method={results['virt_method']}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
