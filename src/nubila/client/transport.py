"""HTTP/1.1 to one of Nubila's listeners, synchronous, on the standard library alone so that it imports fast.

Called by the agent (mutual TLS), bootstrap and the CLI (bearer token). It decides how connections are kept. Only the
given CA is trusted, plain http is for loopback only, and the token appears in no repr and no
error. Any number of threads may share one Transport: each request takes an idle connection or opens one.
Invariant: a request that the server may have seen is sent a second time only if it is idempotent (GET, HEAD, or any
request with an Idempotency-Key), and once at most.
"""

from __future__ import annotations

import http.client
import re
import select
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

from nubila.client import trust
from nubila.client.answers import ConnectionFailed, ProblemError, Response, TimedOut, expect
from nubila.errors import BadRequest

__all__ = ["ConnectionFailed", "ProblemError", "Response", "Stream", "TimedOut", "Transport", "expect", "segment"]

Query = Mapping[str, object]
CONNECT_TIMEOUT_S = 10.0
BLOCK_BYTES = 256 << 10
IDLE_MAX = 8  # connections kept; more are closed after their request
SAFE = frozenset({"GET", "HEAD"})
_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")
_LOST = (http.client.HTTPException, OSError, ssl.SSLError)


class Transport:
    """One listener, one identity. Timeouts are for each wait on the socket, not for the whole exchange."""

    def __init__(
        self,
        base_url: str,
        *,
        ca: Path | str | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        token: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        """`ca` is a path, or the PEM text itself. `certificate` and `key` are the client's own, for mutual TLS."""
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("a base URL looks like https://HOST:PORT")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("a base URL holds no credential, query or fragment")
        if token is not None and not _TOKEN.fullmatch(token):
            raise ValueError("a token is one word of printable characters; this one holds others")
        self.base_url = f"{url.scheme}://{url.netloc}{url.path.rstrip('/')}"
        self.timeout_s = timeout_s
        self._host, self._port, self._prefix = url.hostname, url.port, url.path.rstrip("/")
        self._context = trust.context(url.scheme, url.hostname, ca, certificate, key)
        self._headers = {"Accept": "application/json, */*;q=0.5", "User-Agent": "nubila"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._idle: list[http.client.HTTPConnection] = []
        self._busy: set[http.client.HTTPConnection] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"Transport({self.base_url!r})"

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Response:
        """Send one request and read its whole answer, whatever its status."""
        conn, answer = self._exchange(method, self._target(path, query), body, self._all(headers, body), timeout_s)
        try:
            response = Response(answer.status, _headers(answer), answer.read())
        except TimeoutError:
            self._drop(conn)
            self._timed_out(method, path, timeout_s)
        except _LOST as e:
            self._drop(conn)
            self._lost(method, path, e)
        self._keep(conn, answer)
        return response

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[Stream]:
        """Send one request and hand out its answer in pieces. An answer not read to its end costs the connection."""
        conn, answer = self._exchange(method, self._target(path, query), body, self._all(headers, body), timeout_s)
        try:
            yield Stream(self, method, path, answer, timeout_s)
        finally:
            if answer.isclosed():
                self._keep(conn, answer)
            else:
                self._drop(conn)

    def upload(
        self,
        method: str,
        path: str,
        source: IO[bytes] | Iterable[bytes],
        *,
        length: int,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        progress: Callable[[int], None] | None = None,
        timeout_s: float | None = None,
    ) -> Response:
        """Send `length` bytes of a file or of pieces; `progress` is told how many are sent. Never sent twice."""
        wait_s = self.timeout_s if timeout_s is None else timeout_s
        target = self._target(path, query)
        all_headers = {**self._headers, "Content-Type": "application/octet-stream", **(headers or {})}
        all_headers["Content-Length"] = str(length)
        conn = self._open(wait_s)
        try:
            _send_head(conn, method, target, all_headers)
            sent = self._send_pieces(conn, source, length, progress)
            if sent is not None and sent != length:
                raise ValueError(f"{length} bytes were announced and {sent} were there")
            answer = conn.getresponse()
            response = Response(answer.status, _headers(answer), answer.read())
        except TimeoutError:
            self._drop(conn)
            self._timed_out(method, path, timeout_s)
        except _LOST as e:
            self._drop(conn)
            self._lost(method, path, e)
        except BaseException:
            self._drop(conn)
            raise
        self._keep(conn, answer)
        return response

    def close(self) -> None:
        """Close every connection, also those on which other threads wait: these end with ConnectionFailed."""
        self._closed = True
        for conn in list(self._busy):
            sock: socket.socket | None = conn.sock
            if sock is not None:
                # The plain socket's shutdown: SSLSocket.shutdown would take the TLS state from under the reader.
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
        while self._idle:
            self._idle.pop().close()

    # --- one exchange

    def _exchange(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send and read the head of the answer; on a reused connection that turns out dead, once more on a new one."""
        wait_s = self.timeout_s if timeout_s is None else timeout_s
        again = method in SAFE or any(k.lower() == "idempotency-key" for k in headers)
        while True:
            conn = self._take(wait_s)
            reused = conn is not None
            if conn is None:
                conn = self._open(wait_s)
            try:
                _send_head(conn, method, target, headers, body)
                return conn, conn.getresponse()
            except TimeoutError:
                self._drop(conn)
                self._timed_out(method, target, timeout_s)
            except _LOST as e:
                self._drop(conn)
                if not (reused and again and not self._closed):
                    self._lost(method, target, e)
                again = False
                self._forget_idle()
            except BaseException:
                self._drop(conn)
                raise

    def _send_pieces(
        self,
        conn: http.client.HTTPConnection,
        source: IO[bytes] | Iterable[bytes],
        length: int,
        progress: Callable[[int], None] | None,
    ) -> int | None:
        """The number of bytes sent, or None when the server answered before it had all of them."""
        sent = 0
        for piece in _pieces(source):
            if sent + len(piece) > length:
                raise ValueError(f"{length} bytes were announced and more were there")
            try:
                conn.send(piece)
            except (BrokenPipeError, ConnectionResetError):
                return None  # a refusal may wait to be read
            sent += len(piece)
            if progress is not None:
                progress(sent)
        return sent

    # --- connections

    def _open(self, wait_s: float) -> http.client.HTTPConnection:
        connect_s = min(wait_s, CONNECT_TIMEOUT_S)
        conn: http.client.HTTPConnection
        if self._context is None:
            conn = http.client.HTTPConnection(self._host, self._port, timeout=connect_s, blocksize=BLOCK_BYTES)
        else:
            conn = http.client.HTTPSConnection(
                self._host, self._port, timeout=connect_s, context=self._context, blocksize=BLOCK_BYTES
            )
        if self._closed:
            raise ConnectionFailed(self.base_url, "this client was closed", may_have_arrived=False)
        try:
            conn.connect()  # sets TCP_NODELAY
        except ssl.SSLCertVerificationError as e:
            conn.close()
            raise ConnectionFailed(
                self.base_url,
                f"the server's certificate is not trusted: {e.verify_message}",
                may_have_arrived=False,
                fix="Check the address, and that the CA file is the one of this installation.",
            ) from None
        except (OSError, http.client.HTTPException) as e:
            conn.close()
            why = "no answer in time" if isinstance(e, TimeoutError) else _words(e)
            raise ConnectionFailed(self.base_url, why, may_have_arrived=False) from None
        conn.sock.settimeout(wait_s)
        self._busy.add(conn)
        return conn

    def _take(self, wait_s: float) -> http.client.HTTPConnection | None:
        """An idle connection that the server has not closed. One with unread bytes has been: nothing is outstanding."""
        while self._idle:
            try:
                conn = self._idle.pop()
            except IndexError:  # another thread was faster
                return None
            poll = select.poll()
            if conn.sock is not None:
                poll.register(conn.sock, select.POLLIN)
                if not poll.poll(0):
                    conn.sock.settimeout(wait_s)
                    self._busy.add(conn)
                    return conn
            conn.close()
        return None

    def _keep(self, conn: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> None:
        self._busy.discard(conn)
        if answer.will_close or self._closed or conn.sock is None or len(self._idle) >= IDLE_MAX:
            conn.close()
        else:
            self._idle.append(conn)

    def _drop(self, conn: http.client.HTTPConnection) -> None:
        self._busy.discard(conn)
        conn.close()

    def _forget_idle(self) -> None:
        """One stale connection means that its contemporaries are stale too."""
        while self._idle:
            self._idle.pop().close()

    # --- addresses, headers, failures

    def _target(self, path: str, query: Query | None) -> str:
        if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
            raise ValueError("a path starts with '/' and is percent-encoded")
        pairs = [(k, v) for k, v in _flat(query or {})]
        if not pairs:
            return self._prefix + path
        return f"{self._prefix}{path}{'&' if '?' in path else '?'}{urlencode(pairs)}"

    def _all(self, headers: Mapping[str, str] | None, body: bytes | None) -> dict[str, str]:
        merged = dict(self._headers)
        if body is not None:
            merged["Content-Type"] = "application/json"
        merged.update(headers or {})
        return merged

    def _timed_out(self, method: str, path: str, timeout_s: float | None) -> NoReturn:
        wait_s = self.timeout_s if timeout_s is None else timeout_s
        raise TimedOut(self.base_url, f"no answer to {method} {path.split('?')[0]} within {wait_s:g} s") from None

    def _lost(self, method: str, path: str, error: BaseException) -> NoReturn:
        why = f"the connection was lost during {method} {path.split('?')[0]}: {_words(error)}"
        raise ConnectionFailed(self.base_url, why) from None


class Stream:
    """An answer that is read in pieces. Valid inside its `with` only."""

    def __init__(
        self, owner: Transport, method: str, path: str, answer: http.client.HTTPResponse, timeout_s: float | None
    ) -> None:
        self._owner, self._method, self._path, self._answer, self._timeout_s = owner, method, path, answer, timeout_s
        self.status = answer.status
        self.headers = _headers(answer)

    def chunks(self, size_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
        """Pieces as they come, at most `size_bytes` each."""
        while True:
            try:
                piece = self._answer.read1(size_bytes)
            except TimeoutError:
                self._owner._timed_out(self._method, self._path, self._timeout_s)
            except _LOST as e:
                self._owner._lost(self._method, self._path, e)
            if not piece:
                missing = self._answer.length
                if missing:
                    self._owner._lost(self._method, self._path, http.client.IncompleteRead(b"", missing))
                self._answer.close()  # read1 does not notice that it has all
                return
            yield piece

    def response(self, max_bytes: int = 1 << 20) -> Response:
        """The whole answer (its first `max_bytes`), for a status that was not expected."""
        body = b""
        for piece in self.chunks():
            body += piece
            if len(body) >= max_bytes:
                break
        return Response(self.status, self.headers, body[:max_bytes])


def segment(value: str) -> str:
    """A name or id as one segment of a path. '.' and '..' would mean another path."""
    if value in ("", ".", ".."):
        raise BadRequest("A name or an id is needed.", fix="List the objects to see which exist.")
    return quote(value, safe="")


def _send_head(
    conn: http.client.HTTPConnection, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None
) -> None:
    conn.putrequest(method, target, skip_accept_encoding=True)
    for name, value in headers.items():
        conn.putheader(name, value)
    if body is not None or (method not in SAFE and "Content-Length" not in headers):
        conn.putheader("Content-Length", str(len(body or b"")))
    conn.endheaders(body)


def _pieces(source: IO[bytes] | Iterable[bytes]) -> Iterator[bytes]:
    read = getattr(source, "read", None)
    if read is None:
        yield from source
        return
    while piece := read(BLOCK_BYTES):
        yield piece


def _flat(query: Query) -> Iterator[tuple[str, str]]:
    """None is left out, True is '1', False is '0', a list or tuple repeats its key."""
    for name, value in query.items():
        values: Iterable[Any] = value if isinstance(value, (list, tuple)) else (value,)
        for v in values:
            if v is not None:
                yield name, str(int(v)) if isinstance(v, bool) else str(v)


def _headers(answer: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items()}


def _words(error: BaseException) -> str:
    if isinstance(error, http.client.RemoteDisconnected):
        return "the server closed it without an answer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower() if error.strerror[1:2].islower() else error.strerror
    return type(error).__name__
