"""Wrong requests, made from the literal tables of routes: each is a valid request with one thing in it spoilt.

Whether a spoilt body is wrong by its types is decided by decoding it as the route would. What only the handler can
judge is sent as a plan, so that nothing is written even if it turns out to be right.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from nubila.api import table
from nubila.api.route import Route
from nubila.model import ids
from nubila.model.catalog import Plane
from tests.fleet.installation import PUBLIC_KEY
from tests.fleet.tenant import absent

# permission -> a body that is right
VALID: dict[str, Any] = {
    "vm.create": {"name": "new", "flavor": "tiny", "image": "mini", "networks": ["default"], "keys": ["k"], "user_data": "x", "boot_string": "b",
                  "labels": {"a": "b"}, "hostname": "h", "disk_gib": 2, "power": "off", "virt_method": "kvm", "zone": "default"},
    "vm.insert": {"image": "disc"}, "vm.rescue": {"image": "disc"}, "vm.hold": {"reason": "why"}, "vm.change": {"name": "other", "labels": {"c": "d"}, "on_crash": "stop", "protected": True, "cores": 2, "memory_mib": 64}, "vm.stop": {"mode": "clean", "timeout_s": 5}, "vm.reboot": {"timeout_s": 5},
    "keypair.create": {"name": "new", "public_key": PUBLIC_KEY, "labels": {}},
    "network.create": {"name": "new", "subnets": [{"cidr": "10.3.0.0/24", "gateway": "10.3.0.1", "dns": ["10.3.0.2"]}], "nat": True, "mtu": 1400, "labels": {}},
    "security_group.create": {"name": "new", "description": "d", "rules": [], "labels": {}},
    "security_group.change": {"description": "d", "rules": [], "labels": {"a": "b"}},
    "port.create": {"network": "default", "security_groups": ["default"], "in_kbit": 1000, "out_kbit": 1000, "burst_kib": 64},
    "port.assign": {"address": "10.9.200.7"},
    "port.change": {"security_groups": ["default"], "in_kbit": 1000, "out_kbit": 1000, "burst_kib": 64},
    "volume.create": {"name": "new", "size_gib": 2, "format": "qcow2", "for_vm": "a", "cache": "none", "limits": {"read_iops": 10}, "labels": {}},
    "volume.change": {"name": "other", "labels": {}, "size_gib": 3, "limits": {"read_iops": 10}, "cache": "none", "remove_with_vm": True},
    "volume.attach": {"vm": "a"}, "volume.roll-back": {"snapshot": "kept"}, "snapshot.create": {"name": "new", "labels": {}},
    "token.create": {"name": "new", "project": "p", "role": "reader", "expires_in_s": 600},
    "project.create": {"name": "new", "description": "d", "labels": {}}, "project.change": {"name": "renamed", "description": "d", "suspended": False},
    "quota.change": {"quota": {"vms": 5, "cores": 7}}, "member.change": {"role": "member"},
    "user.create": {"name": "new", "email": "a@b", "labels": {}}, "user.change": {"email": "c@d", "suspended": False},
    "operator.create": {"name": "new", "email": "", "labels": {}}, "operator.first": {"secret": "nbf_x", "name": "n"},
    "flavor.create": {"name": "new", "cores": 1, "memory_mib": 64, "disk_gib": 1, "labels": {}},
    "image.create": {"name": "new", "format": "raw", "public": False, "os": "linux", "login": "root", "min_disk_gib": 0, "min_memory_mib": 0, "labels": {}},
    "image.share": {"right": "use"},
    "join_token.create": {"ttl_s": 60, "roles": ["hypervisor"], "zone": "z", "name": "n", "approve": False},
    "node.change": {"maintenance": False, "maintenance_reason": "r", "cpu_overcommit": 2.0, "reserved_memory_mib": 5, "reserved_disk_gib": 5, "zone": "z", "rack": "r", "roles": ["hypervisor"], "addresses": {"storage": None}, "other_machine": False, "labels": {"a": "b"}},
    "node.drain": {"reason": "r"}, "node.maintain": {"reason": "r"}, "node.lose": {"reason": "r"},
    "node.enrol": {"token": "nbj_x", "csr_pem": "x", "fqdn": "f"}, "node.renew": {"csr_pem": "x"},
    "session.open": {"protocol": 1, "agent_version": "0", "fqdn": "f", "boot_id": "b", "kernel": "k", "cores": 1, "memory_mib": 1, "disk_gib": 1,
                     "virt_methods": ["v"], "drivers": {}, "machine_id": "m", "address": "10.0.0.1",
                     "links": [{"name": "e", "mac": "m", "mtu": 1500, "addresses": ["10.0.0.1/24"]}], "disks": [{"name": "d", "size_gib": 1, "model": "m", "rotational": True}]},
    "report.write": {"session": 1, "fabric_epoch": 1, "revision": 0, "foreign": [], "vms": [{"vm_id": absent("vm"), "epoch": 1, "generation": 1, "power": "on"}]},
    "drift.ignore": {"hours": 1, "reason": "r"},
    "question.answer": {"session": 1, "text": "x", "error": None},
}  # fmt: skip
JUNK: list[Any] = [
    None, True, 0, -1, 1.5, 1 << 63, -(1 << 63) - 1, 10**30, "", " ", "x" * 300, "UPPER", "a b", "\u00fc", "a\x00b", "\ud800", "../../etc/passwd",
    "'; drop table vm; --", "%00", "10.0.0.0/33", "::/0", [], ["x"], ["x"] * 70, [[]], {}, {"x": 1}, {"": ""}, {"a": "\x00"}, "2026-01-01", 1e308,
]  # fmt: skip
RAW = [
    b"", b"{", b"[]", b"null", b"0", b'"x"', b"{}}", b"\xff\xfe", b'{"name": NaN}', b'{"name": 1e999}', b"[" * 20000, b'{"a":' * 20000,
    b'{"unknown": 1}', b'{"name": "x", "name": 1}', b" " * (1 << 20) + b"{}", b"{'name': 'x'}", b"\x00",
]  # fmt: skip
QUERIES = [
    "nosuch=1", "wait=-1", "wait=1e9", "wait=x", "limit=0", "limit=1001", "limit=9999999999999999999999", "limit=1.5", "limit=1&limit=2", "after=%00",
    "after=zzz", "after=WzFd", "plan=perhaps", "%ff=1", "a=" + "b" * 9000, "label=x", "label=%3D", "x[]=1", "&".join(f"a{i}=1" for i in range(70)), "fields=%00",
]  # fmt: skip
HEADERS: list[dict[str, str]] = [
    {"authorization": "Basic dXNlcjpwYXNz"}, {"authorization": "Bearer"}, {"authorization": "Bearer nbu_x"}, {"authorization": ""},
    {"accept": "text/html"}, {"accept": "image/png;q=1"}, {"if-match": "unquoted"}, {"if-match": '"a",'}, {"idempotency-key": "a b"},
    {"idempotency-key": "x" * 200}, {"idempotency-key": ""}, {"content-encoding": "gzip"},
]  # fmt: skip
IDS = [
    "nosuch",
    "%00",
    "%ff",
    "x" * 90,
    "%C3%A9",
    "..",
    "%2e%2e%2f",
    "0",
    "-1",
    "vm-",
    "00000000-0000-0000-0000-000000000000",
    "a%20b",
    "%F0%9F%92%A9",
    "*",
]


def _numbered(route: Route, query: str) -> bool:
    """A history's pages go by one number, so that this is a place in it."""
    return query == "after=WzFd" and route.path.endswith("/history")


class Request(msgspec.Struct, frozen=True):
    """`certain`: it must be refused. Otherwise it may be right too."""

    why: str
    method: str
    path: str
    body: bytes | None
    headers: dict[str, str]
    certain: bool


class Maker:
    """`names`: kind -> an object that is there, so that only the spoilt part is wrong."""

    def __init__(
        self,
        plane: Plane,
        routes: tuple[Route, ...],
        names: dict[str, str],
        seed: int,
        *,
        open_permissions: frozenset[str] = frozenset(),
    ):
        self.plane, self.routes, self.names, self.random = plane, routes, names, random.Random(seed)
        self.open = open_permissions

    def path(self, route: Route, **replaced: str) -> str:
        known = {**self.names, **replaced}
        return re.sub(r"\{([a-z_]+)(?::[a-z_]+)?\}", lambda m: known.get(m[1]) or absent(m[1]), route.path)

    def known(self, route: Route) -> bool:
        """Whether there is one of everything that its address names."""
        return all(name in self.names for name in re.findall(r"\{([a-z_]+)", route.path))

    def body(self, route: Route) -> bytes | None:
        if route.upload:
            return b"x"
        assert route.body is None or route.permission in VALID, (
            f"{route.method} {route.path}: a right body is missing in VALID"
        )
        return None if route.body is None else json.dumps(VALID[route.permission]).encode()

    def plans(self, route: Route) -> bool:
        return "plan" in table.common(self.plane, route)

    def make(self, route: Route, why: str, *, path: str | None = None, body: bytes | None = None, headers: dict[str, str] | None = None,
             query: str = "", certain: bool = True) -> Request | None:  # fmt: skip
        """None when it could write: it may be right, and there is no planning it."""
        if not certain and route.writes:
            if not self.plans(route):
                return None
            query = "plan=1" + (f"&{query}" if query else "")
        body = self.body(route) if body is None else body
        kind = "application/octet-stream" if route.upload else "application/json"
        all_headers = {**({"content-type": kind} if body is not None else {}), **(headers or {})}
        return Request(
            f"{route.method} {route.path}: {why}",
            route.method,
            (path or self.path(route)) + (f"?{query}" if query else ""),
            body,
            all_headers,
            certain,
        )

    def valid(self) -> Iterator[tuple[Route, Request]]:
        for route in self.routes:
            if (made := self.make(route, "as it should be", certain=False)) is not None:
                yield route, made

    def wrong(self, each: int) -> Iterator[Request]:
        """About `each` requests of every sort for every route."""
        for route in self.routes:
            made = [
                *self._ids(route, each),
                *self._queries(route, each),
                *self._headers(route, each),
                *self._bodies(route, each),
            ]
            yield from [m for m in made if m is not None]

    def _ids(self, route: Route, each: int) -> Iterator[Request | None]:
        for name in re.findall(r"\{([a-z_]+)", route.path):
            for value in [
                absent(name),
                ids.text("call", ids.parse("vm", absent("vm")) or ids.uuid7(0, 0)),
                *self.random.sample(IDS, each),
            ]:
                # An answer to a question that nobody asks is ignored; that is no fault of the one who answers.
                yield self.make(
                    route, f"id {value!r}", path=self.path(route, **{name: value}), certain=name != "question"
                )

    def _queries(self, route: Route, each: int) -> Iterator[Request | None]:
        for query in self.random.sample(QUERIES, each):
            own = {f.name for f in msgspec.structs.fields(route.query)}
            name = query.partition("=")[0]
            yield self.make(
                route,
                f"query {query[:40]}",
                query=query,
                certain=name not in own and name != "fields" and not _numbered(route, query),
            )

    def _headers(self, route: Route, each: int) -> Iterator[Request | None]:
        for headers in self.random.sample(HEADERS, each):
            if "authorization" in headers and (route.permission in self.open or self.plane is Plane.INTERNAL):
                continue
            yield self.make(route, f"headers {headers}", headers=headers)

    def _bodies(self, route: Route, each: int) -> Iterator[Request | None]:
        if route.body is None:
            if not route.upload:
                yield self.make(
                    route, "a body where none belongs", body=b'{"x": 1}', headers={"content-type": "application/json"}
                )
            return
        right = VALID[route.permission]
        yield self.make(route, "another content type", headers={"content-type": "text/xml"})
        yield self._spoilt(route, "an unknown field", json.dumps({**right, "nosuch": 1}).encode())
        for raw in self.random.sample(RAW, each):
            yield self._spoilt(route, f"raw {raw[:20]!r}", raw)
        for name, was in right.items():
            yield self._spoilt(
                route, f"without {name}", json.dumps({k: v for k, v in right.items() if k != name}).encode()
            )
            for junk in self.random.sample(JUNK, each):
                yield self._spoilt(route, f"{name} = {str(junk)[:30]!r}", json.dumps({**right, name: junk}).encode())
            yield from self._inside(route, right, name, was)

    def _inside(self, route: Route, right: Any, name: str, was: Any) -> Iterator[Request | None]:
        """The same one level down, in lists of objects."""
        if isinstance(was, list) and was and isinstance(was[0], dict):
            for inner in was[0]:
                for junk in self.random.sample(JUNK, 3):
                    yield self._spoilt(
                        route,
                        f"{name}.{inner} = {str(junk)[:30]!r}",
                        json.dumps({**right, name: [{**was[0], inner: junk}]}).encode(),
                    )

    def _spoilt(self, route: Route, why: str, raw: bytes) -> Request | None:
        assert route.body is not None
        try:
            msgspec.json.decode(raw or b"{}", type=route.body)
            certain = len(raw) > route.max_bytes
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            certain = True
        return self.make(route, why, body=raw, certain=certain)
