"""A20: fetching from an address never reaches what is not on the open internet, whatever the address, DNS or redirects say.

The evil servers are real, on loopback. Each refusal has a twin that is let through by the operator's prefix.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import ipaddress
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nubila.drivers import DriverError
from nubila.drivers.image_store import fetch_child
from nubila.drivers.image_store.fetch import Task, fetch

CONTENT = os.urandom(3 << 20)
LOOPBACK = ("127.0.0.1/32",)
CONTROL, FETCH = 1_900_097, 1_900_098  # users without accounts
LISTENING: dict[str, Path] = {}  # the socket of the helper that the tests ask
# A child that was taken over does as it is told: it answers with the value of what it was asked for.
TAKEN_OVER = """
fetch_child.fetch = lambda task, out, say: out.write(repr(eval(task["url"], {"os": os})).encode())
"""


class Server(http.server.ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.callers: list[int] = []  # ports
        self.go_on = threading.Event()

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
            if path == "/held":
                self.server.callers.append(self.client_address[1])
                self.server.go_on.wait(20)
            self.wfile.write(CONTENT)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@contextmanager
def helper(directory: Path, uid: int | None = None, group: int | None = None, but: str = "") -> Iterator[Path]:
    """The process that fetches, as the supervisor starts it; `but`: what is another in it."""
    os.chown(directory, -1 if uid is None else uid, -1 if group is None else group)
    directory.chmod(0o2750)
    become = (
        "" if uid is None else f"os.setgroups([]); os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid})"
    )
    program = f"""
import ctypes, os
from pathlib import Path
from nubila.drivers.image_store import fetch_child, fetcher
{but}
os.umask(0o077)
{become}
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as after the exec that a change of user is followed by
fetcher.serve(Path({str(directory / "socket")!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", program], env={"NUBILA_NAME": "x", "PATH": "/usr/bin:/bin"})
    try:
        until(lambda: listens(directory / "socket"))
        yield directory / "socket"
    finally:
        process.kill()
        process.wait()


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(str(path))
        except OSError:
            return False
    return path.stat().st_mode & 0o777 == 0o660


def until(what: Any) -> None:
    limit = time.monotonic() + 10
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.fixture(scope="module", autouse=True)
def _listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with helper(tmp_path_factory.mktemp("fetch")) as path:
        LISTENING["socket"] = path
        yield


async def got(url: str, allow: tuple[str, ...] = LOOPBACK, **more: Any) -> bytes:
    task = Task(url=url, max_bytes=more.pop("max_bytes", 8 << 20), allow=allow, **more)
    return b"".join([piece async for piece in fetch(LISTENING["socket"], task, lambda _: None)])


async def test_what_is_there_comes(server: Server) -> None:
    sizes: list[int] = []
    task = Task(url=f"{server.url}/a?b=c", max_bytes=8 << 20, allow=LOOPBACK)
    content = b"".join([piece async for piece in fetch(LISTENING["socket"], task, sizes.append)])
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


async def value(socket: Path, words: str) -> str:
    """What a child that was taken over gets when it does so."""
    task = Task(url=words, max_bytes=1)
    try:
        return b"".join([piece async for piece in fetch(socket, task, lambda _: None)]).decode()
    except DriverError as e:
        return e.reason


def connection(port: int) -> list[str]:
    """The kernel's line of the one that began there; [] for none."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return next((x for x in lines if x[1] == f"0100007F:{port:04X}"), [])


def is_open(port: int) -> bool:
    return connection(port)[3:4] == ["01"]


@pytest.mark.real
async def test_a20_who_fetches_is_a_user_of_its_own(server: Server, place: Path) -> None:
    """Seen by the kernel while it does. The mutant, without one, is whoever runs the control plane."""
    for name, uid, seen in (("own", FETCH, FETCH), ("mutant", None, os.geteuid())):
        directory = place / name
        directory.mkdir()
        server.callers.clear()
        server.go_on.clear()
        with helper(directory, uid) as path:
            task = Task(url=f"{server.url}/held", max_bytes=8 << 20, allow=LOOPBACK)
            pieces = fetch(path, task, lambda _: None)
            first = asyncio.ensure_future(anext(pieces))
            await asyncio.to_thread(until, lambda: server.callers)
            assert int(connection(server.callers[0])[7]) == seen
            server.go_on.set()
            content = await first + b"".join([piece async for piece in pieces])
            assert content == CONTENT


@pytest.mark.real
async def test_a20_a_helper_that_was_taken_over_reads_no_key(place: Path) -> None:
    """A file that only the control plane may read; that one may, and so may the mutant that runs as it."""
    wall = place / "control"
    wall.mkdir(mode=0o700)
    key = wall / "vault.key"
    key.write_text("the key")
    for path in (wall, key):
        os.chown(path, CONTROL, CONTROL)
    said = {}
    for uid in (FETCH, CONTROL):
        directory = place / f"keys{uid}"
        directory.mkdir()
        with helper(directory, uid, but=TAKEN_OVER) as path:
            said[uid] = await value(path, f"open({str(key)!r}).read()")
            assert await value(path, "os.getresuid()") == repr((uid, uid, uid))
            assert await value(path, "os.getgroups()") == "[]"
    assert "the key" not in said[FETCH]
    assert "PermissionError" in said[FETCH]
    assert said[CONTROL] == repr("the key")


@pytest.mark.real
async def test_a20_only_the_control_plane_may_ask(place: Path) -> None:
    """Who is of its group reaches the socket, and others, a vm's user say, do not. Without the mode, the mutant, they do."""
    directory = place / "asked"
    directory.mkdir()
    with helper(directory, FETCH, CONTROL) as path:
        connect = f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"

        def connects(uid: int) -> bool:
            argv = [sys.executable, "-c", connect]
            done = subprocess.run(argv, user=uid, group=uid, extra_groups=[], stderr=subprocess.DEVNULL, check=False)
            return done.returncode == 0

        assert connects(CONTROL)
        assert not connects(CONTROL - 1)
        path.parent.chmod(0o755)
        path.chmod(0o666)
        assert connects(CONTROL - 1)


@pytest.mark.real
async def test_a20_a_helper_that_was_taken_over_stays_alone(place: Path) -> None:
    """It begins no process that would outlive it, and sees nothing of the one that waits for others. The mutants do."""
    for name, but, forks, sees in (
        ("guarded", "", False, False),
        ("unlimited", "fetch_child.LIMITS = ()", True, False),
        ("dumpable", "fetcher._PR_SET_DUMPABLE = 3", False, True),
    ):
        directory = place / name
        directory.mkdir()
        with helper(directory, FETCH, but=TAKEN_OVER + but) as path:
            forked = await value(path, "[p for p in [os.fork()] if p or os._exit(0)]")
            assert ("failed" not in forked) == forks, forked
            seen = await value(path, "open(f'/proc/{os.getppid()}/environ').read()")
            assert ("NUBILA_NAME" in seen) == sees, seen


async def test_a19_the_helper_may_do_little(server: Server, tmp_path: Path) -> None:
    """The kernel's word on its limits while it fetches; they hold before it reads a byte of a stranger's."""
    names = {
        "Max address space": 0,
        "Max cpu time": 1,
        "Max file size": 2,
        "Max open files": 3,
        "Max core file size": 4,
    }
    words = "open('/proc/thread-self/limits').read()"
    with helper(tmp_path, but=TAKEN_OVER + "fetcher._PR_SET_DUMPABLE = 3") as path:
        lines = eval(await value(path, words)).splitlines()
    for name, place in names.items():
        line = next(x for x in lines if x.startswith(name))
        limit = str(fetch_child.LIMITS[place][1])
        assert line.removeprefix(name).split()[:2] == [limit, limit]


@pytest.mark.parametrize("guarded", [True, False])
async def test_a19_a_helper_that_nobody_waits_for_ends(server: Server, tmp_path: Path, guarded: bool) -> None:
    """However long the stranger holds it: its connection is gone then. The mutant, which does not look, keeps it."""
    with helper(tmp_path, but="" if guarded else "fetch_child._end_with = lambda _: None") as path:
        task = Task(url=f"{server.url}/held", max_bytes=8 << 20, allow=LOOPBACK)
        waiting = asyncio.ensure_future(anext(fetch(path, task, lambda _: None)))
        await asyncio.to_thread(until, lambda: server.callers)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        if guarded:
            await asyncio.to_thread(until, lambda: not is_open(server.callers[0]))
        else:
            await asyncio.sleep(0.3)
            assert is_open(server.callers[0])
        server.go_on.set()


async def test_without_the_helper_it_is_tried_again(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="is away") as e:
        await anext(fetch(tmp_path / "none", Task(url="http://x/", max_bytes=1), lambda _: None))
    assert e.value.again
