"""How this machine becomes a node and keeps its certificate fresh. Called by main and, for renewal, by the core.

The key pair is made here and never leaves. The control plane's CA is believed because the join token holds its
fingerprint; nothing is sent before that was compared. Killed anywhere, the next start goes on: the signing request is
kept until the certificate is on disk, and the control plane gives the same machine the same node again. Invariant:
`node.pem` (certificate and key in one file, 0600, renamed into place) is there if and only if it is enrolled.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from nubila.agent.link import ROOT, Wire
from nubila.client.answers import expect
from nubila.client.transport import Transport
from nubila.client.trust import fetch_ca
from nubila.protocol import Enrol, Enrolled, Renew

RENEW_LEFT = 1 / 3  # of the lifetime
KEYPAIR_S = 60.0
_TOKEN = re.compile(r"nbj_[0-9a-z]{26}_[A-Za-z0-9_-]{43}_([0-9a-f]{64})")
_PEM = r"-----BEGIN {0}-----[A-Za-z0-9+/=\s]+-----END {0}-----\n?"


class Identity(msgspec.Struct, frozen=True):
    """Who this node is, and the files that prove it."""

    node_id: str
    region: str
    certificate: Path  # holds the key too
    ca: Path


class NotEnrolled(Exception):
    """There is no identity and no usable join token. The text says what to do."""


def load(directory: Path) -> Identity | None:
    """The identity on disk, None when this machine is not enrolled."""
    certificate = directory / "node.pem"
    if not certificate.exists():
        return None
    who = msgspec.json.decode((directory / "identity.json").read_bytes(), type=dict[str, str])
    return Identity(who["node_id"], who["region"], certificate, directory / "ca.pem")


def enrol(directory: Path, url: str, token_file: Path, fqdn: str, *, line: int = 0) -> Identity:
    """Use the join token (the file's line-th) and become a node. Raises NotEnrolled, ConnectionFailed or
    ProblemError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    token, fingerprint = read_token(token_file, line)
    ca_pem = fetch_ca(url, fingerprint)
    request = _request(directory / "request.pem", fqdn)
    wire = Transport(url, ca=ca_pem, timeout_s=30.0)
    try:
        body = msgspec.json.encode(Enrol(token=token, csr_pem=_part(request, "CERTIFICATE REQUEST"), fqdn=fqdn))
        answer = expect(wire.request("POST", f"{ROOT}/enrol", body=body))
    finally:
        wire.close()
    enrolled = msgspec.json.decode(answer.body, type=Enrolled)
    _write(directory / "ca.pem", ca_pem.encode())  # the one whose fingerprint was compared
    who = {"node_id": enrolled.node_id, "region": enrolled.region}
    _write(directory / "identity.json", msgspec.json.encode(who))
    _write(directory / "node.pem", (enrolled.certificate_pem + _part(request, "PRIVATE KEY")).encode())
    _sync(directory)
    (directory / "request.pem").unlink(missing_ok=True)
    identity = load(directory)
    assert identity is not None
    return identity


def renew(directory: Path, wire: Wire, fqdn: str) -> Identity:
    """A new certificate under a new key, swapped in by one rename; the old one works until then."""
    request = _request(directory / "renew.pem", fqdn)
    body = msgspec.json.encode(Renew(csr_pem=_part(request, "CERTIFICATE REQUEST")))
    answer = expect(wire.request("POST", f"{ROOT}/renew", body=body))
    enrolled = msgspec.json.decode(answer.body, type=Enrolled)
    _write(directory / "node.pem", (enrolled.certificate_pem + _part(request, "PRIVATE KEY")).encode())
    _sync(directory)
    (directory / "renew.pem").unlink(missing_ok=True)
    identity = load(directory)
    assert identity is not None
    return identity


def renewal_due(identity: Identity, now: datetime) -> bool:
    begin, end = validity(_part(identity.certificate.read_text(), "CERTIFICATE"))
    return now >= end - (end - begin) * RENEW_LEFT


def read_token(file: Path, line: int = 0) -> tuple[str, str]:
    """The token and the CA's fingerprint in it."""
    try:
        lines = file.read_text().split()
    except FileNotFoundError:
        raise NotEnrolled(f"not enrolled: put a join token into {file} (an operator makes one)") from None
    m = _TOKEN.fullmatch(lines[line]) if line < len(lines) else None
    if m is None:
        raise NotEnrolled(f"{file} holds no join token")
    return m[0], m[1]


def validity(certificate_pem: str) -> tuple[datetime, datetime]:
    """From when until when a certificate is valid, read from its DER without a library for it."""
    der = base64.b64decode("".join(certificate_pem.split("-----")[2].split()))
    _, at, _ = _tlv(der, 0)  # Certificate
    _, at, _ = _tlv(der, at)  # TBSCertificate
    for _ in range(4 if der[at] == 0xA0 else 3):  # version, serial number, signature algorithm, issuer
        _, _, at = _tlv(der, at)
    _, at, _ = _tlv(der, at)  # Validity
    _, begin, begin_end = _tlv(der, at)
    _, end, end_end = _tlv(der, begin_end)
    return _time(der[begin:begin_end]), _time(der[end:end_end])


def _tlv(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, where its content begins, where it ends."""
    length, start = der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(der[start : start + size], "big"), start + size
    return der[at], start, start + length


def _time(text: bytes) -> datetime:
    form = "%y%m%d%H%M%SZ" if len(text) == 13 else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text.decode(), form).replace(tzinfo=UTC)


def _request(path: Path, name: str) -> str:
    """Key and signing request; those of an interrupted try are used again."""
    if not path.exists():
        command = [sys.executable, "-m", "nubila.agent.keypair", str(path), name]
        subprocess.run(command, check=True, timeout=KEYPAIR_S, stdin=subprocess.DEVNULL)
    return path.read_text()


def _part(text: str, kind: str) -> str:
    m = re.search(_PEM.format(kind), text)
    if m is None:
        raise ValueError(f"no {kind.lower()} in a file that should hold one")
    return m[0].rstrip("\n") + "\n"


def _write(path: Path, data: bytes) -> None:
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
