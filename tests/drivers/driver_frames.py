"""Ethernet frames by hand, and a tap to speak them with: what a guest's network card would do, without a guest."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import select
import struct
import subprocess
import time
from collections.abc import Callable

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
BROADCAST = "ff:ff:ff:ff:ff:ff"
ARP, IP4, IP6, VLAN, LLDP = 0x0806, 0x0800, 0x86DD, 0x8100, 0x88CC


def opened(name: str) -> int:
    """A handle of a persistent tap, as QEMU has one."""
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    except OSError:
        os.close(handle)
        raise
    return handle


class Tap:
    """Opens a persistent tap as QEMU does."""

    def __init__(self, name: str):
        self._handle = opened(name)
        limit = time.monotonic() + 5
        while b'"forwarding"' not in _link(name):  # the kernel tells the bridge of the carrier a little later
            assert time.monotonic() < limit, "the bridge does not forward for this tap"
            time.sleep(0.01)

    def send(self, frame: bytes) -> None:
        os.write(self._handle, frame.ljust(60, b"\0"))

    def receive(self, until: Callable[[bytes], bool], within_s: float = 3.0) -> list[bytes]:
        """All frames up to and with the first that is meant; without it when it does not come in time."""
        frames: list[bytes] = []
        limit = time.monotonic() + within_s
        while (left := limit - time.monotonic()) > 0:
            if select.select([self._handle], [], [], left)[0]:
                frames.append(os.read(self._handle, 65536))
                if until(frames[-1]):
                    break
        return frames

    def drain(self) -> None:
        self.receive(lambda _: False, 0.05)

    def close(self) -> None:
        os.close(self._handle)


def gateway_mac(tap: Tap, mac: str, mine: str, gateway: str) -> str:
    """Who answers for the gateway's address."""
    tap.send(arp(mac, mine, gateway))
    answer = tap.receive(lambda x: x[12:14] == struct.pack(">H", ARP) and x[28:32] == ip(gateway))[-1]
    return ":".join(f"{byte:02x}" for byte in answer[6:12])


def _link(name: str) -> bytes:
    return subprocess.run(["ip", "-d", "-j", "link", "show", name], capture_output=True, check=True).stdout


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def ether(source: str, target: str, kind: int, payload: bytes) -> bytes:
    return mac(target) + mac(source) + struct.pack(">H", kind) + payload


def arp(
    source: str, address: str, wanted: str, target: str = BROADCAST, says: str | None = None, reply: bool = False
) -> bytes:
    head = struct.pack(">HHBBH", 1, IP4, 6, 4, 2 if reply else 1)
    body = head + mac(says or source) + ip(address) + bytes(6) + ip(wanted)
    return ether(source, target, ARP, body)


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip4(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + ip(source) + ip(target)
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def udp(source_port: int, target_port: int, data: bytes) -> bytes:
    return struct.pack(">HHHH", source_port, target_port, 8 + len(data), 0) + data


def udp4(source: str, target: str, source_port: int, target_port: int, data: bytes) -> bytes:
    return ip4(source, target, 17, udp(source_port, target_port, data))


def ping4(source: str, target: str, data: bytes) -> bytes:
    body = struct.pack(">BBHHH", 8, 0, 0, 1, 1) + data
    return ip4(source, target, 1, body[:2] + struct.pack(">H", checksum(body)) + body[4:])


SYN, ACK = 2, 16


def syn(source: str, target: str, source_port: int, target_port: int) -> bytes:
    return tcp4(source, target, source_port, target_port, SYN, 1, 0)


def tcp4(source: str, target: str, source_port: int, target_port: int, flags: int, number: int, ack: int,
         data: bytes = b"") -> bytes:  # fmt: skip
    body = struct.pack(">HHIIBBHHH", source_port, target_port, number, ack, 5 << 4, flags, 1024, 0, 0) + data
    pseudo = ip(source) + ip(target) + struct.pack(">BBH", 0, 6, len(body))
    return ip4(source, target, 6, body[:16] + struct.pack(">H", checksum(pseudo + body)) + body[18:])


def ip6(source: str, target: str, next_header: int, payload: bytes, hops: int = 255) -> bytes:
    return struct.pack(">IHBB", 6 << 28, len(payload), next_header, hops) + ip(source) + ip(target) + payload


def icmp6(source: str, target: str, kind: int, body: bytes) -> bytes:
    data = struct.pack(">BBH", kind, 0, 0) + body
    pseudo = ip(source) + ip(target) + struct.pack(">II", len(data), 58)
    return ip6(source, target, 58, data[:2] + struct.pack(">H", checksum(pseudo + data)) + data[4:])


def udp6(source: str, target: str, source_port: int, target_port: int, data: bytes) -> bytes:
    body = udp(source_port, target_port, data)
    pseudo = ip(source) + ip(target) + struct.pack(">II", len(body), 17)
    return ip6(source, target, 17, body[:6] + struct.pack(">H", checksum(pseudo + body) or 0xFFFF) + body[8:])


def dhcp(source: str, kind: int, transaction: int, *options: bytes) -> bytes:
    """A client's message (1 discover, 3 request), as a broadcast frame."""
    fixed = struct.pack(">BBBBIHH", 1, 1, 6, 0, transaction, 0, 0x8000) + bytes(16) + mac(source) + bytes(10 + 192)
    asked = bytes([55, 6, 1, 3, 6, 26, 51, 121])
    body = fixed + b"\x63\x82\x53\x63" + bytes([53, 1, kind]) + b"".join(options) + asked + b"\xff"
    unset = ".".join("0000")
    return ether(source, BROADCAST, IP4, udp4(unset, "255.255.255.255", 68, 67, body.ljust(300, b"\0")))


def dhcp_answer(frame: bytes, transaction: int) -> dict[int, bytes] | None:
    """The options of a server's answer, with the given address as option 0; None for any other frame."""
    if len(frame) < 282 or frame[12:14] != b"\x08\x00" or frame[23] != 17 or frame[34:38] != b"\0\x43\0\x44":
        return None
    body = frame[42:]
    if struct.unpack_from(">I", body, 4)[0] != transaction:
        return None
    options, at = {0: body[16:20]}, 240
    while at < len(body) and body[at] != 255:
        if body[at] == 0:
            at += 1
            continue
        options[body[at]] = body[at + 2 : at + 2 + body[at + 1]]
        at += 2 + body[at + 1]
    return options
