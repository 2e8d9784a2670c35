"""A small API of canned answers on loopback, and the command run in this process against it. For `conftest`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from nubila.cli import main as cli_main

USER_TOKEN = "nbu_0123_usersecret"
OPERATOR_TOKEN = "nbo_0123_operatorsecret"


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None

    @property
    def key(self) -> str | None:
        return self.headers.get("idempotency-key")


@dataclass
class Canned:
    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False  # close the connection instead of answering


Reply = Canned | Callable[[Asked], Canned]


class Fake:
    """Answers by (method, path): the replies of a list in turn, the last one for ever."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.replies: dict[tuple[str, str], list[Reply]] = {}
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def log_message(self, *args: object) -> None:
                pass

            def _any(self) -> None:
                url = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {k.lower(): v for k, v in self.headers.items()}
                asked = Asked(self.command, url.path, dict(parse_qsl(url.query)), headers, body)
                fake.asked.append(asked)
                self._answer(fake.reply(asked))

            def _answer(self, canned: Canned) -> None:
                if canned.drop:
                    self.close_connection = True
                    return
                raw = canned.body if isinstance(canned.body, bytes) else json.dumps(canned.body).encode()
                self.send_response(canned.status)
                kind = "application/problem+json" if canned.status >= 400 else "application/json"
                for name, value in {"Content-Type": kind, **canned.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def on(self, method: str, path: str, *replies: Reply) -> None:
        self.replies[method, path] = list(replies)

    def reply(self, asked: Asked) -> Canned:
        waiting = self.replies.get((asked.method, asked.path))
        if waiting is None:
            return problem(404, "not-found", "There is no such object, or it is not yours.")
        reply = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return reply(asked) if callable(reply) else reply

    def last(self, method: str | None = None) -> Asked:
        return [a for a in self.asked if method in (None, a.method)][-1]


def problem(status: int, slug: str, detail: str, *, retry_after: str | None = None, **fields: Any) -> Canned:
    body = {
        "type": f"urn:nubila:problem:{slug}",
        "title": slug,
        "status": status,
        "detail": detail,
        "slug": slug,
        "fix": "Do something else.",
        "request_id": "req-1",
        **fields,
    }
    return Canned(body, status, {"Retry-After": retry_after} if retry_after else {})


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self.capsys = path, capsys

    def __call__(self, *argv: str) -> Ran:
        self.capsys.readouterr()
        code = cli_main.main(list(argv))
        out, err = self.capsys.readouterr()
        return Ran(code, out, err)
