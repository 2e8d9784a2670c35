"""Metadata: what a guest gets, that it gets nobody else's, and that no request breaks or blocks the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest
from agent_control import vm
from hypothesis import given, settings
from hypothesis import strategies as st

from nubila.agent import metadata as module
from nubila.agent.metadata import BadRequest, Metadata, parse
from nubila.agent.metadata_tree import look_up
from nubila.model import ids
from nubila.protocol import Vm

WISH = vm(user_data="#!/bin/sh\n", boot_string="opaque", hostname="web")
OTHER = vm(user_data="other's secret")


class Served:
    def __init__(self) -> None:
        self.vm: Vm | None = WISH
        self.fetched: list[str] = []
        self.port = 0

    async def ask(self, text: str | bytes, *, whole: bool = True) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(text.encode() if isinstance(text, str) else text)
        if whole:
            writer.write(b"Connection: close\r\n\r\n")
        answer = (await asyncio.wait_for(reader.read(), 8)).decode()
        writer.close()
        return answer

    async def get(self, path: str, headers: str = "") -> tuple[int, str]:
        answer = await self.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}")
        head, _, body = answer.partition("\r\n\r\n")
        return int(head.split()[1]), body


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    found = Served()
    server = Metadata(lambda network, source: found.vm, found.fetched.append, region="r1", zone="z1")
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    found.port = sock.getsockname()[1]
    listening = await server.listen("net-1", sock)
    yield found
    listening.close()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/latest/meta-data/instance-id", WISH.vm_id),
        ("/2009-04-04/meta-data/instance-id", WISH.vm_id),
        ("/1.0/meta-data/instance-id", WISH.vm_id),
        ("/latest/meta-data/local-hostname", "web"),
        ("/latest/meta-data/hostname/", "web"),
        ("/latest/meta-data/ami-id", WISH.image_id),
        ("/latest/meta-data/instance-type", "small"),
        ("/latest/meta-data/local-ipv4", WISH.nics[0].addresses[0]),
        ("/latest/meta-data/mac", WISH.nics[0].mac),
        (f"/latest/meta-data/network/interfaces/macs/{WISH.nics[0].mac}/ipv6s", WISH.nics[0].addresses[1]),
        (f"/latest/meta-data/network/interfaces/macs/{WISH.nics[0].mac}/subnet-ipv4-cidr-block", "10.9.0.0/16"),
        ("/latest/meta-data/placement/availability-zone", "z1"),
        ("/latest/meta-data/public-keys/", "0=key-0"),
        ("/latest/meta-data/public-keys/0/", "openssh-key"),
        ("/latest/meta-data/public-keys/0/openssh-key", WISH.keys[0]),
        ("/latest/user-data", "#!/bin/sh\n"),
        ("/nubila/v1/boot-string", "opaque"),
        ("/latest/", "dynamic/\nmeta-data/\nuser-data"),
    ],
)
async def test_tree(served: Served, path: str, text: str) -> None:
    assert await served.get(path) == (200, text)
    assert set(served.fetched) == {WISH.vm_id}


async def test_the_document_and_the_root(served: Served) -> None:
    status, body = await served.get("/latest/dynamic/instance-identity/document")
    assert (status, json.loads(body)["instanceId"]) == (200, WISH.vm_id)
    _, root = await served.get("/")
    assert {"latest", "2009-04-04", "1.0", "nubila"} <= set(root.split("\n"))


@pytest.mark.parametrize(
    "path",
    ["/latest/meta-data/none", "/latest/meta-data/instance-id/x", "/openstack/2011-01-01/", "/openstack/latest/password", "/openstack/latest/meta_data.json/x",
     "/20090404/", "/../etc/passwd",
     "/latest/meta-data/public-keys/1/openssh-key", "/latest/%2e%2e/"],
)  # fmt: skip
async def test_the_unknown_is_404(served: Served, path: str) -> None:
    assert (await served.get(path))[0] == 404


async def test_openstacks_tree_says_the_same_of_the_same_guest(served: Served) -> None:
    _, versions = await served.get("/openstack")
    assert {"latest", "2012-08-10", "2020-10-14"} <= set(versions.split("\n"))
    names = {"meta_data.json", "user_data", "vendor_data.json", "vendor_data2.json", "network_data.json"}
    assert set((await served.get("/openstack/latest/"))[1].split("\n")) == names
    assert set((await served.get("/openstack/2012-08-10"))[1].split("\n")) == {"meta_data.json", "user_data"}
    meta = json.loads((await served.get("/openstack/latest/meta_data.json"))[1])
    assert (meta["hostname"], meta["availability_zone"], meta["project_id"]) == ("web", "z1", WISH.project_id)
    assert meta["uuid"] == str(ids.parse("vm", WISH.vm_id))
    assert list(meta["public_keys"].values()) == list(WISH.keys)
    assert meta["meta"]["nubila-boot-string"] == "opaque"
    assert await served.get("/openstack/latest/user_data") == (200, "#!/bin/sh\n")
    assert json.loads((await served.get("/openstack/latest/vendor_data.json"))[1]) == {}
    served.vm = OTHER
    other = await served.get("/openstack/latest/meta_data.json")
    assert WISH.vm_id not in other[1]


async def test_openstacks_network_data_holds_what_the_port_has(served: Served) -> None:
    nic = WISH.nics[0]
    data = json.loads((await served.get("/openstack/latest/network_data.json"))[1])
    (link,) = data["links"]
    assert (link["ethernet_mac_address"], link["mtu"], link["vif_id"]) == (nic.mac, 1500, nic.port_id)
    four, six = data["networks"]
    assert (four["type"], four["link"]) == ("ipv4_dhcp", link["id"])
    assert (six["type"], six["ip_address"]) == ("ipv6", f"{nic.addresses[1]}/64")
    assert six["routes"] == [{"network": "::", "netmask": "::", "gateway": "fd09::1"}]
    assert data["services"] == [{"type": "dns", "address": "10.9.0.1"}]


def test_without_user_data_there_is_none() -> None:
    bare = vm(user_data=None, keys=(), nics=())
    assert look_up(bare, "/latest/user-data", region="r", zone="z") is None
    assert look_up(bare, "/openstack/latest/user_data", region="r", zone="z") is None
    assert look_up(bare, "/latest/meta-data/public-keys/", region="r", zone="z") is None
    assert look_up(bare, "/latest/meta-data/mac", region="r", zone="z") is None
    assert WISH.vm_id not in (look_up(OTHER, "/latest/meta-data/instance-id", region="r", zone="z") or "")


async def test_headers_do_not_say_who_asks(served: Served) -> None:
    forged = "".join(
        f"{name}: {value}\r\n"
        for name in ("X-Forwarded-For", "X-Instance-ID", "X-Real-IP", "Forwarded", "X-Tenant-ID")
        for value in (OTHER.nics[0].addresses[0], OTHER.vm_id)
    )
    assert await served.get("/latest/meta-data/instance-id", forged) == (200, WISH.vm_id)


async def test_an_unknown_source_gets_nothing(served: Served) -> None:
    served.vm = None
    for path in (
        "/",
        "/openstack",
        "/openstack/latest/meta_data.json",
        "/latest/",
        "/latest/meta-data/instance-id",
        "/latest/api/token",
    ):
        assert (await served.get(path)) == (404, "")
    assert served.fetched == []


async def test_session_tokens(served: Served) -> None:
    put = "PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n"
    answer = await served.ask(put)
    token = answer.rpartition("\r\n")[2]
    assert answer.startswith("HTTP/1.1 200") and token
    header = f"X-aws-ec2-metadata-token: {token}\r\n"
    assert (await served.get("/latest/meta-data/instance-id", header))[0] == 200
    assert (await served.get("/latest/meta-data/instance-id", header.replace(token, token[:-1] + "x")))[0] == 401
    assert (await served.get("/latest/meta-data/instance-id", "X-aws-ec2-metadata-token: é-\r\n"))[0] in (400, 401)
    served.vm = OTHER
    assert (await served.get("/latest/meta-data/instance-id", header))[0] == 401
    for bad in ("0", "99999", "x", ""):
        assert " 400 " in (await served.ask(put.replace(": 60", f": {bad}"))).split("\r\n")[0]


async def test_only_get_and_head(served: Served) -> None:
    for method in ("POST", "DELETE", "PUT", "OPTIONS"):
        assert (await served.ask(f"{method} /latest/ HTTP/1.1\r\n")).startswith("HTTP/1.1 405")
    head = await served.ask("HEAD /latest/meta-data/instance-id HTTP/1.1\r\n")
    assert head.startswith("HTTP/1.1 200") and head.endswith("\r\n\r\n")
    assert f"Content-Length: {len(WISH.vm_id)}" in head


async def test_one_connection_many_requests(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    for _ in range(5):
        writer.write(b"GET /latest/meta-data/mac HTTP/1.1\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"keep-alive" in head
        assert await reader.readexactly(17) == WISH.nics[0].mac.encode()
    writer.close()


@pytest.mark.parametrize(
    "text",
    [b"GET / HTTP/1.1\r\n\r\n"[:5] + b"\r\n\r\n", b"\r\n\r\n", b"GET /\r\n\r\n", b"get / HTTP/1.1\r\n\r\n",
     b"GET http://x/ HTTP/1.1\r\n\r\n", b"GET / HTTP/2.0\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
     b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", b"GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n",
     b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
     b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n"],
)  # fmt: skip
async def test_what_is_unclear_is_refused(served: Served, text: bytes) -> None:
    assert (await served.ask(text, whole=False)).startswith("HTTP/1.1 400")
    assert (await served.get("/latest/meta-data/mac"))[0] == 200


async def test_bounds(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    big = await served.ask("GET / HTTP/1.1\r\n" + "A: " + "b" * 9000 + "\r\n")
    assert big.startswith("HTTP/1.1 431")
    monkeypatch.setattr(module, "HEAD_S", 1.0)
    slow = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(module.PER_GUEST)]
    await asyncio.sleep(0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    with contextlib.suppress(ConnectionResetError):  # one guest's connections are few
        assert await asyncio.wait_for(reader.read(), 0.5) == b""
    writer.close()
    for reader, writer in slow:  # and end when nothing comes
        assert await asyncio.wait_for(reader.read(), 3) == b""
        writer.close()
    assert (await served.get("/latest/meta-data/mac"))[0] == 200


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.builds(lambda b: b"GET / HTTP/1.1\r\n" + b, st.binary(max_size=100)))
def test_the_parser_says_yes_or_no(head: bytes) -> None:
    try:
        request = parse(head)
    except BadRequest:
        return
    assert request.path.startswith("/") and request.path.isprintable()


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="/.latestmeta-dubilv10%x", max_size=60))
def test_any_path_has_an_answer(path: str) -> None:
    look_up(WISH, "/" + path, region="r", zone="z")
