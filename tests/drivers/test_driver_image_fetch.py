"""A20: fetching from an address never reaches what is not on the open internet, whatever the address, DNS or redirects say.

The evil servers are real, on loopback. Each refusal has a twin that is let through by the operator's prefix.
"""

from __future__ import annotations

import hashlib
import http.server
import ipaddress
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nubila.drivers import DriverError
from nubila.drivers.image_store import fetch_child
from nubila.drivers.image_store.fetch import Task, fetch

CONTENT = os.urandom(3 << 20)
LOOPBACK = ("127.0.0.1/32",)


class Server(http.server.ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path, _, rest = self.path.partition("?")
        if path == "/to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
        elif path == "/status":
            self.send_response(int(rest))
            self.end_headers()
        else:
            self.send_response(200)
            size = len(CONTENT) + (1000 if path == "/short" else 0)
            if path != "/endless":
                self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.write(CONTENT)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


async def got(url: str, allow: tuple[str, ...] = LOOPBACK, **more: Any) -> bytes:
    task = Task(url=url, max_bytes=more.pop("max_bytes", 8 << 20), allow=allow, **more)
    return b"".join([piece async for piece in fetch(task, lambda _: None)])


async def test_what_is_there_comes(server: Server) -> None:
    sizes: list[int] = []
    task = Task(url=f"{server.url}/a?b=c", max_bytes=8 << 20, allow=LOOPBACK)
    content = b"".join([piece async for piece in fetch(task, sizes.append)])
    assert hashlib.sha256(content).digest() == hashlib.sha256(CONTENT).digest()
    assert sizes == [len(CONTENT)]
    assert server.asked == ["/a?b=c"]
    assert await got(f"{server.url}/to?/b") == CONTENT


@pytest.mark.parametrize(
    ("path", "again", "words"),
    [
        ("/short", True, "ended after|failed"),
        ("/status?404", False, "404"),
        ("/status?503", True, "503"),
        ("/to?/to", False, "redirects|status"),
    ],
)
async def test_what_does_not_come_whole_is_told(server: Server, path: str, again: bool, words: str) -> None:
    with pytest.raises(DriverError, match=words) as e:
        await got(server.url + path)
    assert e.value.again == again


@pytest.mark.parametrize("path", ["/", "/endless"])
async def test_a19_more_than_allowed_is_not_taken(server: Server, path: str) -> None:
    with pytest.raises(DriverError, match="at most|more than"):
        await got(server.url + path, max_bytes=1 << 20)


HOSTS = (
    "127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::]", "169.254.169.254", "[fe80::1]", "10.0.0.1", "192.168.1.1", "172.16.0.1",
    "100.64.0.1", "[fd00::1]", "224.0.0.1", "255.255.255.255", "198.18.0.1", "[::7f00:1]",
)  # fmt: skip


# the server's own address, written otherwise: the prefix that lets the redirect come lets these through too
SAME = frozenset(HOSTS[:6]) | {"[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]"}


@pytest.mark.parametrize("host", HOSTS)
async def test_a20_no_address_within_is_reached(server: Server, host: str) -> None:
    """Straight, and by a redirect from a server that may be asked."""
    port = server.server_address[1]
    with pytest.raises(DriverError, match="open internet|resolved") as e:
        await got(f"http://{host}:{port}/secret", allow=())
    assert not e.value.again or "resolved" in e.value.reason
    if host not in SAME:
        with pytest.raises(DriverError, match="open internet|resolved"):
            await got(f"{server.url}/to?http://{host}:{port}/secret")
    assert "/secret" not in server.asked


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"])
async def test_a20_the_operators_prefix_lets_them_through(server: Server, host: str) -> None:
    """The twin: it is the judgement that refuses, and not that these addresses would not work."""
    allow = (*LOOPBACK, "::1/128")
    assert await got(f"http://{host}:{server.server_address[1]}/twin", allow=allow) == CONTENT
    assert server.asked == ["/twin"]


async def test_a20_own_ports_are_never_reached(server: Server) -> None:
    with pytest.raises(DriverError, match="Nubila itself"):
        await got(f"{server.url}/secret", own_ports=(server.server_address[1],))
    assert server.asked == []


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x", "http://", "http://u:p@127.0.0.1/", "http://127.0.0.1:0/",
     "http://127.0.0.1/a b", "http://127.0.0.1/\r\nHost: x", "nbd://127.0.0.1:9", 'json:{"driver":"nbd"}', "http://[::1", "http://127.0.0.1:99999/"],
)  # fmt: skip
async def test_a20_only_http_addresses_are_fetched(server: Server, url: str) -> None:
    with pytest.raises(DriverError, match="no http"):
        await got(url)
    with pytest.raises(DriverError, match="no http|failed|status|redirects|resolved|internet"):
        await got(f"{server.url}/to?{url.splitlines()[0].replace(' ', '%20')}", allow=LOOPBACK)


def test_a20_a_name_is_resolved_once_and_the_judged_address_is_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS that answers something else the second time. Without the pin the second answer would be connected to."""
    answers = iter(["203.0.114.7", "127.0.0.1", "127.0.0.1"])
    connected: list[Any] = []

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    def connect(address: Any, *_: Any) -> Any:
        connected.append(address)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    task = {"url": "http://rebind.example:81/", "allow": [], "own_ports": [], "max_bytes": 1}
    with pytest.raises(OSError):  # noqa: PT011
        fetch_child.fetch(task, None, None)
    assert connected == [("203.0.114.7", 81)]


def test_a20_one_inner_address_among_several_spoils_all(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 80)) for a in ("203.0.114.7", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(fetch_child.Refused):
        fetch_child.resolved("two.example", 80, [], frozenset())


async def test_a20_mutant_without_the_judgement_reaches_within(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard removed: what the tests above refuse would come."""
    out: list[bytes] = []

    class Out:
        def write(self, piece: bytes) -> None:
            out.append(piece)

        def flush(self) -> None:
            pass

    task = {"url": f"{server.url}/secret", "allow": [], "own_ports": [], "max_bytes": 8 << 20}
    with pytest.raises(fetch_child.Refused):
        fetch_child.fetch(task, Out(), lambda _: None)
    monkeypatch.setattr(fetch_child, "judged", lambda address, *_: ipaddress.ip_address(address))
    fetch_child.fetch(task, Out(), lambda _: None)
    assert b"".join(out) == CONTENT


async def test_a19_the_helper_may_do_little(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its limits hold before it reads a byte, and it sees nothing of our environment."""
    spy = tmp_path / "child.py"
    said = "sys.stdout.write(repr([[resource.getrlimit(w) for w, _ in LIMITS], sorted(os.environ)]))"
    source = Path(fetch_child.__file__).read_text()
    spy.write_text(source.replace("    task = json.loads", f"    {said}\n    task = json.loads"))
    monkeypatch.setattr("nubila.drivers.image_store.fetch.CHILD", spy)
    monkeypatch.setenv("NUBILA_SECRET", "x")
    words = (await got(f"{server.url}/a")).replace(CONTENT, b"").decode()
    limits, names = eval(words)
    assert limits == [(limit, limit) for _, limit in fetch_child.LIMITS]
    assert "NUBILA_SECRET" not in names
