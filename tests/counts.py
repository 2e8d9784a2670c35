"""What a run of all tests has to show beside 'passed': how much was really tried. Printed at the end of `make test`.

Each pytest run with NUBILA_COUNTS appends to that file; `python -m tests.counts FILE` prints all runs together, removes
the file, and fails when something that must have been tried was not. Tests count with `add`.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from nubila.drivers import hypervisor, image_store, network, storage

POINTS_FOUND = "crash points found"
POINTS_RUN = "crash points run"
REAL_POINTS = "crash points run on libvirt"
KINDS = "kinds of side effect"
API_KILLS = "kill -9 of an API process"
AGENT_KILLS = "kill -9 of an agent"
CANCELS = "operations cancelled"
GENERATED = "generated requests"
INTERLEAVINGS = "interleaved conflicting requests"
# In this order; each must be tried in every whole run.
COUNTED = (
    POINTS_FOUND,
    POINTS_RUN,
    REAL_POINTS,
    KINDS,
    API_KILLS,
    AGENT_KILLS,
    CANCELS,
    GENERATED,
    INTERLEAVINGS,
)
# suite -> the kind of driver that it holds to its contract
SUITES: dict[str, str] = {
    "test_driver_hypervisor.py": "hypervisor",
    "test_driver_hypervisor_devices.py": "hypervisor",
    "test_driver_storage.py": "storage",
    "test_driver_network.py": "network",
    "test_driver_image_store.py": "image_store",
}
DRIVERS: tuple[tuple[str, str], ...] = tuple(
    (kind, driver)
    for kind, table in (
        ("hypervisor", hypervisor.DRIVERS),
        ("storage", storage.DRIVERS),
        ("network", network.DRIVERS),
        ("image_store", image_store.DRIVERS),
    )
    for driver in table
)
# Drivers whose cases take a target of their own, and which: containers are held to the contract by `make long`.
ELSEWHERE: dict[str, str] = {"hypervisor lxc": "make long"}
# Attacks and faults that have a test by their name in every whole run.
NAMED = (*(f"A{n}" for n in (1, 2, 4, 5, 15, 16, 17, 18, 19, 20, 21, 22, 24, 25, 26, 27, 29, 31)), *(f"F{n}" for n in (1, 2, 8, 13, 14, 16, 26, 31, 32, 35)))  # fmt: skip
_NAME = re.compile(r"::test_([afAF])(\d+)_")
_COUNTS: Counter[str] = Counter()


def add(what: str, number: int = 1) -> None:
    assert what in COUNTED, what
    _COUNTS[what] += number


class Plugin:
    """Gathers in the process that reports, also when others run the tests."""

    def __init__(self, file: Path):
        self.file = file
        self.whole: dict[str, Any] = {"counts": Counter(), "outcomes": defaultdict(Counter), "skips": Counter()}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Any:
        outcome = yield
        if _COUNTS:
            outcome.get_result().user_properties.append(("counts", dict(_COUNTS)))
            _COUNTS.clear()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, counted in report.user_properties:
            if name == "counts":
                self.whole["counts"].update(counted)
        ended = report.when == "call" or (report.when == "setup" and report.outcome != "passed")
        if not ended:
            return
        for name in names(report.nodeid):
            self.whole["outcomes"][name][report.outcome] += 1
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.whole["skips"][f"{report.nodeid}: {reason.removeprefix('Skipped: ')}"] += 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workerinput"):
            return
        with self.file.open("a") as file:
            file.write(json.dumps(self.whole) + "\n")


def names(nodeid: str) -> list[str]:
    """What a test counts for: the attack or the fault in its name, and the driver that it runs on."""
    path, _, rest = nodeid.partition("::")
    found = _NAME.search(nodeid)
    out = [f"{found[1].upper()}{int(found[2])}"] if found else []
    kind = SUITES.get(Path(path).name)
    words = set(re.split(r"[^a-z0-9_]+", rest.partition("[")[2]))
    return out + [f"{k} {driver}" for k, driver in DRIVERS if k == kind and driver in words]


def told(lines: list[str]) -> tuple[list[str], list[str]]:
    """What to print, and what is missing."""
    counts: Counter[str] = Counter()
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    skips: Counter[str] = Counter()
    for whole in map(json.loads, lines):
        counts.update(whole["counts"])
        skips.update(whole["skips"])
        for name, more in whole["outcomes"].items():
            outcomes[name].update(more)
    out = ["", "What was tried:"] + [f"  {counts[what]:6} {what}" for what in COUNTED]
    conformance = [f"{kind} {driver}" for kind, driver in DRIVERS]
    out += ["Conformance cases per driver:"] + [
        f"  {n:22} {_words(outcomes[n]) if outcomes[n] else ELSEWHERE.get(n, 'none')}" for n in conformance
    ]
    tried = sorted((n for n in outcomes if re.fullmatch(r"[AF]\d+", n)), key=lambda n: (n[0], int(n[1:])))
    out += ["Attacks and faults by name:"] + [f"  {n:4} {_words(outcomes[n])}" for n in tried]
    out += ["Skipped:"] + ([f"  {why}" for why in sorted(skips)] or ["  nothing"])
    missing = [what for what in COUNTED if not counts[what]]
    missing += [n for n in (*conformance, *NAMED) if not outcomes[n]["passed"] and n not in ELSEWHERE]
    return out, missing


def _words(outcomes: Counter[str]) -> str:
    return ", ".join(f"{n} {outcome}" for outcome, n in sorted(outcomes.items()) if n) or "none"


def main() -> int:
    file = Path(sys.argv[1])
    lines = file.read_text().splitlines()
    file.unlink()
    out, missing = told(lines)
    print("\n".join(out))
    if missing:
        print(f"Not tried in this run, and it must be: {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
