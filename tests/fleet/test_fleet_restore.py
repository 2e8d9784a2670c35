"""A whole installation whose database is set back: adopted, nodes ask anew, what it does not know is left alone and shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests import postgres
from tests.fleet.installation import Installation, installed, until
from tests.fleet.tenant import Tenant, refused
from tests.fleet.test_fleet_events import Stream, stream


def database(cloud: Installation, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "nubila", "database", *words], env=cloud._environment("core"), check=True, timeout=60,
        capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


def parked(cloud: Installation) -> set[str]:
    """What operators are shown of it."""
    lines = cloud.operator().list("/v1/drifts?cause=foreign")
    return {d["status"]["thing"] for d in lines if d["status"]["field"] == "parked"}


def load(cloud: Installation, fresh: postgres.Server, dump: Path) -> None:
    """A new cluster has what the dump holds, and the installation works on it."""
    bins = postgres.binaries()
    subprocess.run([bins / "createdb", "-h", fresh.top, "-U", "nubila", "nubila"], check=True)
    words = ["-h", fresh.top, "-U", "nubila", "-d", "nubila", "--exit-on-error"]
    subprocess.run([bins / "pg_restore", *words, dump], check=True)
    (cloud.run / "postgresql").unlink()
    (cloud.run / "postgresql").symlink_to(fresh.top)
    cloud.server = fresh


def test_a_loaded_dump_of_yesterday_is_adopted_and_no_vm_is_harmed() -> None:
    with installed(nodes=1) as cloud, postgres.server() as fresh:
        tenant = Tenant(cloud)
        kept = tenant.running("kept")
        cloud.quiet()
        bins, dump = postgres.binaries(), cloud.top / "dump.sql"
        subprocess.run(
            [bins / "pg_dump", "-Fc", "-h", cloud.server.top, "-U", "nubila", "-f", dump, "nubila"], check=True
        )
        lost = tenant.running("lost")
        late = tenant.owner.post("/v1/volumes?wait=20", {"name": "late", "size_gib": 1, "for_vm": "kept"}).ok()[
            "volume"
        ]
        tenant.owner.post("/v1/volumes/late/attach?wait=20", {"vm": "kept"}).ok()
        assert late["id"] in cloud.domains()[kept["id"]]["disks"]
        with stream(tenant.owner) as ahead:
            tenant.owner.patch("/v1/vms/lost", {"labels": {"a": "1"}}).ok()
            until(ahead.changes, 5)
            last = ahead.events[-1]["id"]
        for name in ("front1", "front2", "core"):
            cloud.stop(name)
        load(cloud, fresh, dump)
        assert "fabric epoch 2" in database(cloud, "adopt")
        cloud.start("core", "front1", "front2")
        until(lambda: cloud.operator().list("/v1/nodes")[0]["state"] == "running", 30)
        if (
            cloud.processes["agent"].poll() is not None
        ):  # it saw a session of another node's start; its supervisor would
            cloud.start_agent()
        until(lambda: tenant.vm("kept")["state"] == "running", 30)
        assert cloud.domains()[kept["id"]]["running"]
        assert cloud.domains()[lost["id"]]["running"]  # not known any more, and left as it is
        refused(tenant.owner.get("/v1/vms/lost"), 404, "not-found")
        # a disk that was given after the dump is not taken from its running guest
        refused(tenant.owner.get("/v1/volumes/late"), 404, "not-found")
        assert late["id"] in cloud.domains()[kept["id"]]["disks"]
        # and whoever looks is shown what is there and was forgotten
        until(lambda: parked(cloud) >= {lost["id"], late["id"]}, 30)
        resumed = Stream(tenant.owner, "/v1/events", last)
        until(lambda: resumed.events, 5)
        assert resumed.events[0]["event"] == "reset"
        tenant.running("after")
        until(lambda: [c for c in resumed.changes() if c["content"].get("name") == "after"], 5)
        resumed.close()
        told = until(lambda: (a := cloud.operator().get("/v1/audit").ok())["unsealed_rows"] == 0 and a, 10)
        assert told["sound"], told
        assert {f["what"] for f in told["findings"]} <= {"restored"}
        cloud.operator().get(f"/v1/vms/{kept['id']}/history").ok()
