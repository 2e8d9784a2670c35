"""`nubila vm list --watch` and `nubila events` against real processes: what a person sees while somebody else works."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fleet.installation import Installation, until
from tests.fleet.tenant import Tenant


@contextmanager
def command(cloud: Installation, tenant: Tenant, place: Path, *words: str) -> Iterator[list[str]]:
    """The command's lines so far, while it runs."""
    token = place / "token"
    token.write_text(tenant.token + "\n")
    token.chmod(0o600)
    nubila = [sys.executable, "-m", "nubila"]
    more = ["--contexts", str(place / "contexts.json")]
    url = f"https://127.0.0.1:{cloud.settings.user_port}"
    add = [
        "context",
        "add",
        "here",
        "--user-url",
        url,
        "--user-token-file",
        str(token),
        "--ca",
        str(cloud.settings.ca_file),
    ]
    if not (place / "contexts.json").exists():
        subprocess.run([*nubila, *add, *more], check=True, capture_output=True, timeout=30)
    process = subprocess.Popen([*nubila, *words, *more], stdout=subprocess.PIPE, text=True)
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")), daemon=True)  # type: ignore[union-attr]
    reader.start()
    try:
        yield lines
    finally:
        process.terminate()
        process.wait(10)
        reader.join(5)


@pytest.mark.slow
def test_a_list_is_watched_while_others_change_it(cloud: Installation, tenant: Tenant, tmp_path: Path) -> None:
    tenant.running("a")
    with (
        command(cloud, tenant, tmp_path, "vm", "list", "--watch") as seen,
        command(cloud, tenant, tmp_path, "events", "--kind", "vm") as told,
    ):
        until(lambda: [line for line in seen if line.split()[:1] == ["a"]], 20)
        assert seen[0].split()[:3] == ["NAME", "ID", "STATE"]
        tenant.running("b")
        until(lambda: [line for line in seen if line.split()[:1] == ["b"] and "running" in line], 10)
        assert len([line for line in seen if line.split()[:1] == ["a"]]) == 1  # it did not change
        tenant.owner.delete("/v1/vms/a?wait=20").ok()
        until(lambda: [line for line in seen if line.startswith("a is gone")], 10)
        until(lambda: [line for line in told if " vm b changed by node: running" in line], 10)
