"""Sending images over HTTP as a slow, a broken or an ordinary client does, and small images of each format."""

from __future__ import annotations

import socket
import ssl
import struct
from typing import Any

from nubila.drivers.storage import qcow2
from tests.fleet.caller import Caller, Reply

OCTETS = {"content-type": "application/octet-stream"}


def part(caller: Caller, image: str, content: bytes, offset: int, size_bytes: int) -> Reply:
    return caller.send("PATCH", f"/v1/images/{image}/content?offset={offset}&size_bytes={size_bytes}", content, OCTETS)


def upload(caller: Caller, image: str, content: bytes) -> Any:
    return part(caller, image, content, 0, len(content)).ok()


class Slow:
    """A writer whose connection stays open between its pieces, and may be cut."""

    def __init__(self, caller: Caller, image: str, size_bytes: int, offset: int = 0):
        raw = socket.create_connection(("127.0.0.1", caller.port))
        self._socket = ssl.create_default_context(cafile=str(caller.ca)).wrap_socket(raw, server_hostname="127.0.0.1")
        self._socket.settimeout(30)
        head = (
            f"PATCH /v1/images/{image}/content?offset={offset}&size_bytes={size_bytes} HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {caller.token}\r\nContent-Type: application/octet-stream\r\n"
            f"Content-Length: {size_bytes - offset}\r\nConnection: close\r\n\r\n"
        )
        self._socket.sendall(head.encode())

    def send(self, content: bytes) -> None:
        self._socket.sendall(content)

    def answer(self) -> bytes:
        got = b""
        while piece := self._socket.recv(65536):
            got += piece
        return got

    def cut(self) -> None:
        """As a cable does it: no end of the stream."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


def small_qcow2(virtual_bytes: int = 8 << 20, backing: str | None = None) -> bytes:
    return qcow2.empty(virtual_bytes, backing, "raw" if backing else None)


def small_iso(blocks: int = 20) -> bytes:
    """An ISO 9660 image as far as its primary volume descriptor goes."""
    descriptor = bytearray(2048)
    descriptor[:7] = b"\x01CD001\x01"
    descriptor[80:88] = struct.pack("<I", blocks) + struct.pack(">I", blocks)
    descriptor[128:132] = struct.pack("<H", 2048) + struct.pack(">H", 2048)
    return bytes(16 * 2048) + bytes(descriptor) + bytes((blocks - 17) * 2048)
