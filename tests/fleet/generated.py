"""Requests generated from a plane's own OpenAPI document by schemathesis, in a process of its own, and what it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from tests.fleet.installation import Installation

SEED = 20261121
# Right by the schema and still refused: what depends on other fields or on what there is.
REFUSED_BY_SENSE = ["2xx", "3xx", "400", "401", "403", "404", "409", "412", "422", "429", "507"]
HOOKS = "tests.fleet.generated_checks"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    mode: str  # positive | negative | all
    phases: str
    examples: int = 1
    limit_s: int = 300
    without: tuple[str, ...] = ()  # operation ids that end what the other requests need


class Found(msgspec.Struct, frozen=True, kw_only=True):
    cases: int
    operations: int
    complete: bool
    failures: tuple[str, ...]
    text: str


def settings(names: dict[str, str]) -> str:
    """Mostly addresses of objects that there are, else no request would come further than 'there is no such'."""
    lines = [f"hooks = {json.dumps(HOOKS)}", "", "[warnings]", "enabled = false", ""]
    lines += ["[checks.positive_data_acceptance]", f"expected-statuses = {json.dumps(REFUSED_BY_SENSE)}", ""]
    for name, value in names.items():
        lines += [f"[dictionaries.{name}]", f"values = [{json.dumps(value)}]", ""]
    lines += ["[parameters]"]
    lines += [f'"path.{name}" = {{ dictionary = "{name}", probability = 0.8 }}' for name in names]
    return "\n".join(lines) + "\n"


def run(cloud: Installation, plane: str, token: str, names: dict[str, str], place: Path, plan: Run) -> Found:
    port = cloud.ports["front1"][("user", "operator").index(plane)]
    config, report = place / f"{plane}-{plan.mode}.toml", place / f"{plane}-{plan.mode}.json"
    config.write_text(settings(names))
    words = [
        *("--config-file", str(config), "run", f"https://127.0.0.1:{port}/openapi.json", "--tls-verify"),
        *(
            str(cloud.settings.ca_file),
            "-H",
            f"Authorization: Bearer {token}",
            "--seed",
            str(SEED),
            "--mode",
            plan.mode,
        ),
        *("--phases", plan.phases, "-n", str(plan.examples), "--checks", "all"),
        *("--continue-on-failure", "--no-shrink", "--no-color", "--generation-deterministic"),
        *("--suppress-health-check", "all", "--report-json-path", str(report)),
        *(word for operation in plan.without for word in ("--exclude-operation-id", operation)),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", *words],
        cwd=place,  # it leaves files where it runs
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=plan.limit_s,
        check=False,
    )
    text = done.stdout + done.stderr
    assert report.exists(), text[-4000:]
    return found(json.loads(report.read_bytes()), text)


def found(report: dict[str, Any], text: str) -> Found:
    bad = [f"{f['title']}: {', '.join(f['operations'])}" for f in report["failures"]] + [
        str(e) for e in report["errors"]
    ]
    return Found(
        cases=report["test_cases"]["generated"],
        operations=report["operations"]["tested"],
        complete=report["complete"],
        failures=tuple(bad),
        text=text,
    )
