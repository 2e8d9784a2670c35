"""The control plane in memory behind real TLS with client certificates: enrolment, renewal, and all of the internal API."""

from __future__ import annotations

import os
import ssl
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import msgspec
from agent_control import IMAGE, REGION, Control, ControlWire, new_id

from nubila import protocol
from nubila.access import authority, tokens
from nubila.client.answers import ConnectionFailed
from nubila.model import ids


class HttpsControl:
    def __init__(self, directory: Path, control: Control):
        directory.mkdir(parents=True, exist_ok=True)
        self.control = control
        self.wire = ControlWire(control)
        self.authority = authority.open_or_create(directory / "ca.key", directory / "ca.pem", REGION, datetime.now(UTC))
        self.tokens: dict[str, tuple[str, str]] = {}  # token -> (key, node id)
        self.peers: list[str] = []
        pem = self.authority.issue_server(authority.server_names("127.0.0.1", []), datetime.now(UTC))
        (directory / "server.pem").write_bytes(b"".join(pem))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "server.pem")
        context.load_verify_locations(directory / "ca.pem")
        context.verify_mode = ssl.CERT_OPTIONAL
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def log_message(self, *args: Any) -> None: ...

            def do_GET(self) -> None:
                outer.answer(self)

            def do_POST(self) -> None:
                outer.answer(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self.server.server_address[1]}"
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def token(self) -> str:
        token, _ = tokens.make(
            tokens.Kind.JOIN, uuid4(), os.urandom(tokens.ENTROPY_BYTES), ca_sha256=self.authority.ca_sha256
        )
        self.tokens[token] = ("", new_id("node"))
        return token

    def answer(self, handler: Any) -> None:
        url = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0)) or None
        try:
            status, headers, data = self._answer(handler, url, body)
        except ConnectionFailed:
            handler.close_connection = True
            return
        handler.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            handler.send_header(key, value)
        handler.end_headers()
        handler.wfile.write(data)

    def _answer(self, handler: Any, url: Any, body: bytes | None) -> tuple[int, dict[str, str], bytes]:
        word = url.path.split("/")[3]
        if word == "ca":
            return 200, {"Content-Type": "application/x-pem-file"}, self.authority.ca_pem.encode()
        if word == "enrol":
            return self._enrol(msgspec.json.decode(body or b"", type=protocol.Enrol))
        certificate = handler.connection.getpeercert()
        names = [v for k, v in (certificate or {}).get("subjectAltName", ()) if k == "URI"]
        if not names:
            return 401, {"Content-Type": "application/problem+json"}, b'{"status":401,"slug":"unauthenticated"}'
        self.peers.append(names[0])
        if word == "renew":
            renew = msgspec.json.decode(body or b"", type=protocol.Renew)
            return self._issued(names[0].rsplit("/", 1)[1], renew.csr_pem)
        if word == "images":
            return 200, {}, IMAGE
        query: dict[str, Any] = {
            k: float(v[0]) for k, v in parse_qs(url.query).items() if k in ("since", "session", "wait")
        }
        response = self.wire.request(handler.command, url.path, query=query, body=body)
        return response.status, dict(response.headers), response.body

    def _enrol(self, enrol: protocol.Enrol) -> tuple[int, dict[str, str], bytes]:
        known = self.tokens.get(enrol.token)
        if known is None or known[0] not in ("", enrol.csr_pem):
            return 401, {"Content-Type": "application/problem+json"}, b'{"status":401,"slug":"unauthenticated"}'
        self.tokens[enrol.token] = (enrol.csr_pem, known[1])
        return self._issued(known[1], enrol.csr_pem)

    def _issued(self, node_id: str, csr_pem: str) -> tuple[int, dict[str, str], bytes]:
        found = ids.parse("node", node_id)
        assert found is not None
        pem = self.authority.issue_node(csr_pem, found, datetime.now(UTC))
        enrolled = protocol.Enrolled(node_id=node_id, region=REGION, certificate_pem=pem, ca_pem=self.authority.ca_pem)
        return 200, {"Content-Type": "application/json"}, msgspec.json.encode(enrolled)

    def close(self) -> None:
        self.control.set_down(True)
        self.server.shutdown()
        self.server.server_close()
