"""An HTTP client for tests: whatever the server answers is a Reply, and anything may be sent, also what no client sends."""

from __future__ import annotations

import http.client
import json
import select
import ssl
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

JSON = "application/json"


class Reply:
    def __init__(self, status: int, headers: dict[str, str], raw: bytes):
        self.status, self.headers, self.raw = status, headers, raw

    @property
    def body(self) -> Any:
        return (
            json.loads(self.raw) if self.raw and "json" in self.headers.get("content-type", "") else self.raw.decode()
        )

    def ok(self) -> Any:
        """The body of an answer that must have been a success."""
        assert 200 <= self.status < 300, self
        return self.body

    @property
    def slug(self) -> str:
        return str(self.body["slug"])

    def __repr__(self) -> str:
        return f"{self.status} {self.raw[:600].decode(errors='replace')}"


@lru_cache(maxsize=64)
def _context(ca: Path, certificate: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


class Caller:
    """One identity at one listener. Threads may share it: each has a connection of its own, kept while it works."""

    def __init__(self, port: int, ca: Path, *, token: str | None = None, certificate: Path | None = None):
        self.port, self.ca, self.token, self.certificate = port, ca, token, certificate
        self._own = threading.local()

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> Reply:
        """One exchange, never repeated. Raises OSError or HTTPException when no answer came."""
        connection = self._connection(timeout_s)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            merged = {**({"authorization": f"Bearer {self.token}"} if self.token else {}), **(headers or {})}
            if body is not None or method not in ("GET", "HEAD"):
                merged.setdefault("content-length", str(len(body or b"")))
            for name, value in merged.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            fields = {k.lower(): v for k, v in answer.getheaders()}
            endless = fields.get("content-type", "").startswith("text/event-stream")
            reply = Reply(answer.status, fields, b"" if endless else answer.read())
        except BaseException:
            connection.close()
            self._own.connection = None
            raise
        if answer.will_close or endless:
            connection.close()
            self._own.connection = None
        return reply

    def _connection(self, timeout_s: float) -> http.client.HTTPSConnection:
        kept: http.client.HTTPSConnection | None = getattr(self._own, "connection", None)
        if kept is not None and kept.sock is not None and select.select([kept.sock], [], [], 0)[0]:
            kept.close()  # nothing is outstanding, so what can be read is the other side's goodbye
        if kept is None or kept.sock is None:
            kept = http.client.HTTPSConnection(
                "127.0.0.1", self.port, context=_context(self.ca, self.certificate), timeout=timeout_s
            )
            kept.connect()
            self._own.connection = kept
        kept.sock.settimeout(timeout_s)
        return kept

    def hang_up(self) -> None:
        """End this thread's connection, whatever is under way on it."""
        kept = getattr(self._own, "connection", None)
        if kept is not None:
            kept.close()
            self._own.connection = None

    def send_only(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> None:
        """Send a whole request and wait for nothing."""
        connection = self._connection(10.0)
        raw = b"" if body is None else json.dumps(body).encode()
        all_headers = {
            "content-type": JSON,
            **({"authorization": f"Bearer {self.token}"} if self.token else {}),
            **(headers or {}),
        }
        connection.request(method, path, raw, all_headers)

    # --- in JSON

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Headers by keyword: if_match='"3"' becomes If-Match."""
        named = {k.replace("_", "-"): v for k, v in headers.items()}
        if body is None:
            return self.send(method, path, None, named)
        return self.send(method, path, json.dumps(body).encode(), {"content-type": JSON, **named})

    def get(self, path: str, **headers: str) -> Reply:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Reply:
        return self.call("POST", path, body, **headers)

    def put(self, path: str, body: Any, **headers: str) -> Reply:
        return self.call("PUT", path, body, **headers)

    def patch(self, path: str, body: Any, **headers: str) -> Reply:
        return self.call("PATCH", path, body, **headers)

    def delete(self, path: str, **headers: str) -> Reply:
        return self.call("DELETE", path, **headers)

    def put_bytes(self, path: str, content: bytes) -> Reply:
        return self.send("PUT", path, content, {"content-type": "application/octet-stream"})

    def list(self, path: str) -> list[dict[str, Any]]:
        """All items of a list, over all its pages."""
        found: list[dict[str, Any]] = []
        link: str | None = path
        while link is not None:
            page = self.get(link).ok()
            found += page["items"]
            link = page["next"]
        return found
