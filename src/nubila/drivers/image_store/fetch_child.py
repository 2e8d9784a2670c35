"""Fetches one address, as a process of its own that may do little (fetcher.py forks it for each connection).

On the connection come the task, as a line of JSON, and nothing after it; back go frames: a letter, a length, and the
content's bytes or a JSON object that says how it goes. It must not reach anything that is not on the open internet:
every name is resolved once, all of its addresses are judged, the connection goes to one that was judged, and each
redirect begins anew. Standard library only.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import resource
import socket
import ssl
import struct
import threading
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

REDIRECTS_MAX = 5
TIMEOUT_S = 30.0
PIECE_BYTES = 1 << 18
# what this process may use: memory, processor, files written, descriptors, processes
LIMITS = (
    (resource.RLIMIT_AS, 512 << 20),
    (resource.RLIMIT_CPU, 3600),
    (resource.RLIMIT_FSIZE, 0),
    (resource.RLIMIT_NOFILE, 32),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_NPROC, 0),
)
FRAME = struct.Struct("!cI")
DATA, WORD = b"d", b"w"
TASK_BYTES = 1 << 16
# prefixes in which an IPv4 address is hidden, and how far from the right it stands
_EMBEDDED = ((ipaddress.IPv6Network("64:ff9b::/96"), 0), (ipaddress.IPv6Network("2002::/16"), 80))


class Refused(Exception):
    """This address is not fetched; asking again does not help."""


class Failed(Exception):
    """It did not work this time."""


def judged(address: str, port: int, allow: list[Network], own_ports: frozenset[int]) -> Address:
    """The address if it may be connected to. Raises Refused."""
    ip: Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or (ip.teredo and ip.teredo[1])
        for prefix, shift in _EMBEDDED:
            if ip in prefix:
                inner = ipaddress.IPv4Address(int(ip) >> shift & 0xFFFFFFFF)
        if inner:
            ip = inner
    here = _is_here(ip)
    if here and port in own_ports:
        raise Refused("the address leads to Nubila itself")
    if any(ip.version == n.version and ip in n for n in allow):
        return ip
    if here or not ip.is_global or ip.is_multicast or ip.is_reserved:
        raise Refused("the address is not on the open internet")
    return ip


def _is_here(ip: Address) -> bool:
    """Whether it is one of this machine's: only these can be bound."""
    if ip.is_unspecified or ip.is_loopback:
        return True
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(ip), 0))
        except OSError:
            return False
    return True


def resolved(host: str, port: int, allow: list[Network], own_ports: frozenset[int]) -> str:
    """One address of a host, resolved once; one that may not be reached spoils them all."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as e:
        raise Failed("the host's name cannot be resolved") from e
    addresses = [judged(str(f[4][0]), port, allow, own_ports) for f in found]
    return str(addresses[0])


class Pinned(http.client.HTTPConnection):
    """To the address that was judged, under the name that was asked for."""

    def __init__(self, host: str, port: int, address: str, tls: ssl.SSLContext | None):
        super().__init__(host, port, timeout=TIMEOUT_S)
        self._address, self._tls = address, tls

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), TIMEOUT_S)
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)


def fetch(task: dict[str, Any], out: Any, say: Any) -> None:
    allow = [ipaddress.ip_network(n) for n in task["allow"]]
    own_ports = frozenset(task["own_ports"])
    url = task["url"]
    for _ in range(REDIRECTS_MAX + 1):
        parts = _parts(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = str(parts.hostname)
        address = resolved(host, port, allow, own_ports)
        tls = ssl.create_default_context(cafile=task.get("ca_file")) if parts.scheme == "https" else None
        connection = Pinned(host, port, address, tls)
        try:
            following = _exchange(connection, parts, task, out, say)
        finally:
            connection.close()
        if following is None:
            return
        url = _joined(url, following)
        if parts.scheme == "https" and not url.startswith("https:"):
            raise Refused("it redirects from https to something less")
    raise Refused(f"it redirects more than {REDIRECTS_MAX} times")


def _joined(url: str, following: str) -> str:
    try:
        return urljoin(url, following)
    except ValueError:
        raise Refused("it redirects to what is no http or https address") from None


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        bad = parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.port == 0
    except ValueError:
        bad = True
    if bad or not url.isascii() or not url.isprintable() or " " in url:
        raise Refused("it leads to what is no http or https address")
    return parts


def _exchange(connection: Pinned, parts: SplitResult, task: dict[str, Any], out: Any, say: Any) -> str | None:
    """Ask; copy the body to `out`, or return where it redirects to."""
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", target, headers={"User-Agent": "nubila", "Accept-Encoding": "identity"})
    answer = connection.getresponse()
    if answer.status in (301, 302, 303, 307, 308):
        return answer.getheader("location") or ""
    if answer.status != 200:
        kind = Failed if answer.status in (408, 425, 429) or answer.status >= 500 else Refused
        raise kind(f"the server answered with status {answer.status}")
    if (answer.getheader("content-encoding") or "identity") != "identity":
        raise Refused("the server sends the content in another encoding")
    _copy(answer, task["max_bytes"], out, say)
    return None


def _copy(answer: http.client.HTTPResponse, limit: int, out: Any, say: Any) -> None:
    size, got = answer.length, 0
    say({"size_bytes": size})
    if size is not None and size > limit:
        raise Refused(f"it has {size} bytes; at most {limit} are taken")
    while piece := answer.read(PIECE_BYTES):
        got += len(piece)
        if got > limit:
            raise Refused(f"it has more than {limit} bytes")
        out.write(piece)
    out.flush()
    if size is not None and got != size:
        raise Failed(f"the connection ended after {got} of {size} bytes")


class Frames:
    """What is written goes back as content."""

    def __init__(self, connection: socket.socket):
        self._connection = connection

    def write(self, piece: bytes) -> None:
        self._connection.sendall(FRAME.pack(DATA, len(piece)) + piece)

    def flush(self) -> None:
        pass

    def say(self, words: dict[str, Any]) -> None:
        line = json.dumps(words).encode()
        self._connection.sendall(FRAME.pack(WORD, len(line)) + line)


def serve(connection: socket.socket) -> None:
    """Read the task, fetch, and tell how it ended. Ends the process when nobody waits for it any more."""
    with connection.makefile("rb") as asked:
        line = asked.readline(TASK_BYTES)
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    for what, limit in LIMITS:
        resource.setrlimit(what, (limit, limit))
    frames = Frames(connection)
    try:
        fetch(json.loads(line), frames, frames.say)
    except Refused as e:
        frames.say({"error": str(e), "again": False})
    except Failed as e:
        frames.say({"error": str(e), "again": True})
    except BrokenPipeError:
        return
    except ssl.SSLCertVerificationError:
        frames.say({"error": "the server's certificate is not valid for its name", "again": False})
    except (OSError, http.client.HTTPException) as e:
        frames.say({"error": f"the connection failed: {type(e).__name__}", "again": True})
    else:
        frames.say({"done": True})


def _end_with(connection: socket.socket) -> None:
    """A server that sends a byte a minute would keep this process for ever."""
    try:
        while connection.recv(1):
            pass
    except OSError:
        pass
    os._exit(1)
