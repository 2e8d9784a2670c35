"""Images fetched from an address by a real installation, and a real full disk under the image store (F31)."""

from __future__ import annotations

import hashlib
import http.server
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fleet.image_client import part
from tests.fleet.installation import Installation, installed, until
from tests.fleet.tenant import Tenant, refused


class Handler(http.server.BaseHTTPRequestHandler):
    content = b""
    slow_s = 0.0
    broken = 0

    def do_GET(self) -> None:
        if type(self).broken > 0:
            type(self).broken -= 1
            self.send_response(503)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        for at in range(0, len(self.content), 1 << 18):
            time.sleep(self.slow_s)
            try:
                self.wfile.write(self.content[at : at + (1 << 18)])
            except OSError:
                return

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    Handler.content, Handler.slow_s, Handler.broken = os.urandom(2 << 20), 0.0, 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def small() -> Iterator[Installation]:
    """Its image store is a file system of 16 MiB, and it may fetch from loopback."""
    with installed(nodes=1, more={"NUBILA_IMAGE_FETCH_ALLOW": "127.0.0.1/32", "NUBILA_IMAGE_RESERVE_MIB": "0"}) as made:
        directory = made.settings.image_dir
        kept = [(p, p.read_bytes()) for p in directory.iterdir() if p.is_file()]
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "tmpfs", directory], check=True)
        try:
            (directory / "uploads").mkdir()
            for path, content in kept:
                path.write_bytes(content)
            yield made
        finally:
            subprocess.run(["umount", "-l", directory], check=True)


@pytest.fixture
def owner(small: Installation) -> Tenant:
    return Tenant(small)


def ended(tenant: Tenant, name: str, state: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = tenant.owner.get(f"/v1/images/{name}").ok()
        return found if found["state"] == state else None

    found: dict[str, Any] = until(look, 30, why=f"{name} {state}")
    return found


def test_an_image_is_fetched_and_checked(small: Installation, owner: Tenant, site: str) -> None:
    digest = hashlib.sha256(Handler.content).hexdigest()
    body = {"name": "i", "format": "raw", "url": f"{site}/d.raw?token=secret", "sha256": digest}
    plan = owner.owner.post("/v1/images?plan=1", body).ok()
    assert plan["effects"][0]["details"]["from"] == f"{site}/d.raw"
    made = owner.owner.post("/v1/images?wait=30", body).ok()
    assert made["operation"]["state"] == "done", made
    assert (made["image"]["state"], made["image"]["sha256"]) == ("ready", digest)
    assert owner.owner.send("GET", "/v1/images/i/content").raw == Handler.content
    # a secret in the address is shown to nobody
    assert made["image"]["spec"]["url"] == f"{site}/d.raw"
    for path in ("/v1/images/i", "/v1/changes?limit=1000", "/v1/operations"):
        assert "token=secret" not in owner.owner.get(path).raw.decode()
    assert "token=secret" not in "".join(p.read_text() for p in small.logs.iterdir())
    owner.owner.delete("/v1/images/i").ok()


def test_a_wrong_hash_or_format_fails_with_the_reason(small: Installation, owner: Tenant, site: str) -> None:
    for name, more, words in (
        ("hash", {"format": "raw", "sha256": "0" * 64}, "SHA-256"),
        ("format", {"format": "qcow2"}, "magic"),
        ("gone", {"format": "raw", "url": "http://127.0.0.1:1/x"}, "failed"),
        ("inner", {"format": "raw", "url": "http://169.254.169.254/latest"}, "open internet"),
        ("own", {"format": "raw", "url": f"http://127.0.0.1:{small.settings.internal_port}/"}, "Nubila itself"),
    ):
        made = owner.owner.post("/v1/images", {"name": name, "url": f"{site}/x", **more}).ok()
        if name == "gone":  # it may come back: tried again, and the reason is seen meanwhile

            def look() -> Any:
                return (owner.owner.get("/v1/images/gone").ok()["status"] or {}).get("reason")

            assert words in until(look, 20)
            why = owner.owner.get(f"/v1/operations/{made['operation']['id']}/why").ok()
            assert words in str(why)
            cancelled = owner.owner.post(f"/v1/operations/{made['operation']['id']}/cancel").ok()
            assert cancelled["cancelled"] == "yes"
        found = ended(owner, name, "failed")
        assert words in found["status"]["reason"] or name == "gone", found
        operation = owner.owner.get(f"/v1/operations/{made['operation']['id']}").ok()
        assert operation["state"] == "cancelled"
        refused(owner.owner.put_bytes(f"/v1/images/{name}/content", b"x"), 409, "conflict")
        owner.owner.delete(f"/v1/images/{name}").ok()


def test_a_fetch_is_tried_again_and_shows_progress(small: Installation, owner: Tenant, site: str) -> None:
    Handler.broken, Handler.slow_s = 1, 0.4
    made = owner.owner.post("/v1/images", {"name": "i", "format": "raw", "url": f"{site}/x"}).ok()
    seen = set()

    def look() -> bool:
        found = owner.owner.get("/v1/images/i").ok()
        seen.add((found["status"] or {}).get("progress"))
        return bool(found["state"] == "ready")

    until(look, 40, 0.2)
    assert any(p is not None and 0 < p < 1 for p in seen), seen
    assert owner.owner.get(f"/v1/operations/{made['operation']['id']}").ok()["state"] == "done"
    owner.owner.delete("/v1/images/i").ok()


def test_a_fetch_is_cancelled_in_its_middle(small: Installation, owner: Tenant, site: str) -> None:
    Handler.slow_s = 1.5
    made = owner.owner.post("/v1/images", {"name": "i", "format": "raw", "url": f"{site}/x"}).ok()
    until(lambda: (owner.owner.get("/v1/images/i").ok()["status"] or {}).get("doing") == "fetching", 20)
    assert owner.owner.post(f"/v1/operations/{made['operation']['id']}/cancel").ok()["cancelled"] == "yes"
    assert owner.owner.get("/v1/images/i").ok()["state"] == "failed"
    until(lambda: not list(small.settings.image_dir.glob(".partial-*")), 20, why="the half is gone")
    owner.owner.delete("/v1/images/i").ok()


def test_f31_a_full_image_store_takes_nothing_half_and_recovers(small: Installation, owner: Tenant, site: str) -> None:
    directory = small.settings.image_dir
    before = {p.name for p in directory.iterdir()}
    content = os.urandom(24 << 20)
    announced = {"format": "raw", "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    owner.owner.post("/v1/images", {"name": "big", **announced}).ok()
    problem = refused(owner.owner.put_bytes("/v1/images/big/content", content), 507, "image-store-full")
    assert "full" in problem["detail"]
    assert {p.name for p in directory.iterdir()} == before
    # an upload in parts keeps what came, and goes on when there is room
    refused(part(owner.owner, "big", content, 0, len(content)), 507, "image-store-full")
    here = owner.owner.get("/v1/images/big/upload").ok()["received_bytes"]
    assert 8 << 20 < here < 16 << 20
    assert owner.owner.get("/v1/images/big").ok()["state"] == "pending"
    refused(owner.owner.post("/v1/vms", owner.wish("a", image="big")), 409, "conflict")
    # a fetch into the full store waits with a reason, and everything else goes on
    Handler.content = os.urandom(4 << 20)
    made = owner.owner.post("/v1/images", {"name": "fetched", "format": "raw", "url": f"{site}/x"}).ok()
    until(lambda: "full" in str(owner.owner.get("/v1/images/fetched").ok()["status"]), 20)
    owner.running("b")
    subprocess.run(["mount", "-o", "remount,size=64m", directory], check=True)
    assert part(owner.owner, "big", content[here:], here, len(content)).ok()["state"] == "ready"
    assert owner.owner.send("GET", "/v1/images/big/content").raw == content
    until(lambda: owner.owner.get("/v1/images/fetched").ok()["state"] == "ready", 60)
    assert owner.owner.get(f"/v1/operations/{made['operation']['id']}").ok()["state"] == "done"
    assert small.faults() == []
