"""Events over HTTP: whatever changes is told once, in order, to those who may see it; streams that break off go on."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.fleet.caller import Caller, _context
from tests.fleet.installation import Installation, until
from tests.fleet.puppet import puppet_of
from tests.fleet.tenant import Tenant, refused


class Stream:
    """What a client has read so far, by a thread of its own."""

    def __init__(self, caller: Caller, path: str, last: str | None = None):
        self.events: list[dict[str, Any]] = []
        self.comments = 0
        self.ended = threading.Event()
        self.connection = http.client.HTTPSConnection(
            "127.0.0.1", caller.port, context=_context(caller.ca, caller.certificate), timeout=60
        )
        headers = {"authorization": f"Bearer {caller.token}"} if caller.token else {}
        self.connection.request("GET", path, headers=headers | ({"last-event-id": last} if last else {}))
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()
        assert self.answer.headers["content-type"] == "text/event-stream"
        self._socket = self.connection.sock
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            for raw in self.answer:
                line = raw.decode().rstrip("\n")
                if line.startswith(":"):
                    self.comments += 1
                elif line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif fields:
                    self.events.append({**fields, "data": json.loads(fields["data"])})
                    fields = {}
        except (OSError, ValueError, http.client.HTTPException, AttributeError):
            pass
        self.ended.set()

    def changes(self) -> list[dict[str, Any]]:
        return [e["data"] for e in self.events if e["event"] == "change"]

    def close(self) -> None:
        import socket

        if self._socket is not None:
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self.connection.close()


@contextmanager
def stream(caller: Caller, path: str = "/v1/events", last: str | None = None) -> Iterator[Stream]:
    made = Stream(caller, path, last)
    try:
        until(lambda: made.events, 5)
        yield made
    finally:
        made.close()


def test_what_changes_is_told_once_and_a_stream_goes_on_where_it_broke_off(cloud: Installation, tenant: Tenant) -> None:
    start = tenant.owner.get("/v1/changes?after=end").ok()["cursor"]
    with stream(tenant.owner) as first:
        vm = tenant.running("a")
        until(lambda: [c for c in first.changes() if c["id"] == vm["id"] and c["content"]["state"] == "running"], 5)
    last = first.events[-1]["id"]
    tenant.owner.patch("/v1/vms/a", {"labels": {"n": "1"}}).ok()
    cloud.quiet()
    with stream(tenant.at("front2"), last=last) as second:
        until(lambda: [c for c in second.changes() if c["id"] == vm["id"] and c["content"]["labels"] == {"n": "1"}], 5)
        tenant.owner.delete("/v1/vms/a?wait=20").ok()
        until(lambda: [c for c in second.changes() if c["id"] == vm["id"] and c["content"]["state"] == "removed"], 5)
        cloud.quiet()
        until(lambda: second.comments or True, 5)
    told = [c["cursor"] for c in first.changes() + second.changes()]
    logged = tenant.owner.get(f"/v1/changes?after={start}&limit=1000").ok()["items"]
    assert told == [i["cursor"] for i in logged]
    assert len(told) == len(set(told)) > 10


def test_streams_are_filtered_and_tell_tenants_only_what_is_theirs(cloud: Installation, tenant: Tenant) -> None:
    other = Tenant(cloud)
    with (
        stream(tenant.owner, "/v1/events?kind=vm") as mine,
        stream(other.owner) as theirs,
        stream(cloud.operator(), f"/v1/events?project={tenant.id}") as operators,
    ):
        vm = tenant.running("a")
        until(lambda: [c for c in mine.changes() if c["content"]["state"] == "running"], 5)
        until(lambda: [c for c in operators.changes() if c["id"] == vm["id"] and c["content"]["state"] == "running"], 5)
        assert {c["kind"] for c in mine.changes()} == {"vm"}
        assert theirs.changes() == []
        assert all("node_id" not in c["content"] for c in mine.changes())
        assert all(c["content"]["node_id"] for c in operators.changes() if c["kind"] == "vm")
    refused(tenant.owner.get("/v1/events?kind=node"), 422, "invalid")
    refused(tenant.owner.get(f"/v1/events?project={other.id}"), 422, "invalid")
    refused(tenant.owner.get("/v1/events", last_event_id="x"), 400, "bad-request")


def test_a_revoked_token_ends_the_stream(cloud: Installation, tenant: Tenant) -> None:
    made = tenant.owner.post("/v1/tokens", {"name": "short"}).ok()
    with stream(cloud.caller("user", made["secret"])) as cut:
        tenant.owner.delete(f"/v1/tokens/{made['token']['id']}").ok()
        assert cut.ended.wait(6)
        assert cut.events[-1]["event"] == "end"
        assert cut.events[-1]["data"]["slug"] == "unauthenticated"
        tenant.create("secret")
        cloud.quiet()
        assert "secret" not in json.dumps([c["content"].get("name") for c in cut.changes()])


def test_heartbeats_come_and_an_older_fabric_epoch_is_reset(cloud: Installation, tenant: Tenant) -> None:
    with stream(tenant.owner, "/v1/events?heartbeat=0.2") as idle:
        until(lambda: idle.comments >= 2, 8)
    with stream(tenant.owner, last="0.17.4") as old:
        assert old.events[0]["event"] == "reset"
        tenant.owner.post("/v1/networks", {"name": "n", "subnets": [{"cidr": "10.8.0.0/24"}]}).ok()
        until(lambda: [c for c in old.changes() if c["content"].get("name") == "n"], 5)


def test_a_node_hears_of_what_is_placed_on_it(cloud: Installation, tenant: Tenant) -> None:
    with puppet_of(cloud) as node, stream(node.caller, "/internal/v1/events?heartbeat=0.2") as told:
        tenant.create("elsewhere", wait=20)
        vm_id = node.running(tenant, "here")
        until(lambda: vm_id in {c["id"] for c in told.changes()}, 8)
        until(lambda: told.comments >= 2, 8)
        assert {c["kind"] for c in told.changes()} <= {"vm", "volume", "port", "attachment"}
        assert "elsewhere" not in {c["content"].get("name") for c in told.changes()}


def test_many_idle_streams_cost_little_and_a_slow_reader_harms_nobody(cloud: Installation, tenant: Tenant) -> None:
    streams = [Stream(tenant.owner, "/v1/events") for _ in range(20)]
    try:
        tenant.running("a")
        until(lambda: all(s.changes() for s in streams), 10)
        cloud.quiet()
        before = cloud.cpu_s("front1")
        threading.Event().wait(3)
        assert cloud.cpu_s("front1") - before < 0.9
    finally:
        for s in streams:
            s.close()
