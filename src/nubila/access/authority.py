"""Nubila's certificate authority: certificates for its listeners and, from signing requests, for nodes.

Called by the composition root (listeners) and the enrol and renew handlers (nodes). The CA's key never leaves its file
and this process; a node's key never comes here. A node's certificate can only identify it as a client.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nubila.access import keyfile
from nubila.errors import Invalid
from nubila.model import ids

BACKDATED = timedelta(minutes=5)  # for clocks that are behind
CA_LIFETIME = timedelta(days=3650)
SERVER_LIFETIME = timedelta(days=30)
NODE_LIFETIME = timedelta(hours=24)
RENEW_FROM = 0.5  # of the lifetime: from here on a renewal is due
CSR_MAX_CHARS = 8192

_REGION = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")  # becomes the trust domain of a SPIFFE id


class BrokenAuthority(RuntimeError):
    """The CA's key and certificate do not belong together, or one of them is missing. Nothing is replaced."""


@dataclass(frozen=True)
class Authority:
    region: str  # installation id
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def ca_pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def ca_sha256(self) -> str:
        """What a join token carries, so that an agent can tell this CA from another: of the DER form, in hex."""
        return fingerprint(self.certificate)

    def issue_server(self, names: Iterable[str], now: datetime) -> tuple[bytes, bytes]:
        """A fresh key and a certificate for listeners under these names and addresses, as PEM: (chain, key)."""
        key = ec.generate_private_key(ec.SECP256R1())
        sans = x509.SubjectAlternativeName([_san(name) for name in dict.fromkeys(names)])
        certificate = self._sign(
            key.public_key(), "listener", sans, ExtendedKeyUsageOID.SERVER_AUTH, now, SERVER_LIFETIME
        )
        return certificate.public_bytes(serialization.Encoding.PEM) + self.ca_pem.encode(), _key_pem(key)

    def issue_node(self, csr_pem: str, node_id: UUID, now: datetime) -> str:
        """The certificate of a node, as PEM. Of the request only its key is used, and its proof of holding that key."""
        key = csr_key(csr_pem)
        text = ids.text("node", node_id)
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{self.region}/node/{text}")])
        certificate = self._sign(key, text, san, ExtendedKeyUsageOID.CLIENT_AUTH, now, NODE_LIFETIME)
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        sans: x509.SubjectAlternativeName,
        usage: x509.ObjectIdentifier,
        now: datetime,
        lifetime: timedelta,
    ) -> x509.Certificate:
        builder = _builder(name, self.certificate.subject, key, now, lifetime)
        for extension, critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_key_usage(signs_certificates=False), True),
            (x509.ExtendedKeyUsage([usage]), False),
            (sans, False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False),
            (x509.SubjectKeyIdentifier.from_public_key(key), False),
        ):
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())


def open_or_create(key_file: Path, ca_file: Path, region: str, now: datetime) -> Authority:
    """The CA of this installation. Made once; of processes that start together one wins, the others read its files."""
    if not _REGION.fullmatch(region):
        raise ValueError("region: lower-case letters, digits, '-' and '.', at most 63")
    if not key_file.exists():
        if ca_file.exists():
            raise BrokenAuthority(f"{ca_file} is there and its key {key_file} is not")
        keyfile.publish(key_file, _key_pem(ec.generate_private_key(ec.SECP256R1())), 0o600)
    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BrokenAuthority(f"{key_file} holds no elliptic curve key")
    if not ca_file.exists():
        keyfile.publish(ca_file, _self_signed(key, region, now), 0o644)
    certificate = x509.load_pem_x509_certificate(ca_file.read_bytes())
    if certificate.public_key() != key.public_key():
        raise BrokenAuthority(f"{ca_file} and {key_file} do not belong together")
    return Authority(region, certificate, key)


def csr_key(csr_pem: str) -> ec.EllipticCurvePublicKey:
    """The public key of a signing request whose sender holds its private key; raises Invalid otherwise."""
    if len(csr_pem) > CSR_MAX_CHARS:
        raise Invalid("csr_pem: the signing request is too long.", field="csr_pem", where="body")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        key, proven = csr.public_key(), csr.is_signature_valid
    except Exception:  # the parser has many ways of saying no
        raise Invalid("csr_pem: not a signing request in PEM.", field="csr_pem", where="body") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid("csr_pem: the key must be of the curve P-256.", field="csr_pem", where="body")
    if not proven:
        raise Invalid("csr_pem: its signature does not prove the key.", field="csr_pem", where="body")
    return key


def renewal_due(certificate_pem: str, now: datetime) -> bool:
    """Whether the certificate is past half of its life. For the agent too."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= begin + (end - begin) * RENEW_FROM


def fingerprint(certificate: x509.Certificate) -> str:
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def server_names(listen: str, host_names: Sequence[str]) -> list[str]:
    """The names under which a listener is reached: this machine's own, and where it listens."""
    names = ["localhost", "127.0.0.1", "::1", listen, *host_names]
    return [n for n in dict.fromkeys(names) if n and n not in ("0.0.0.0", "::")]  # noqa: S104


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _self_signed(key: ec.EllipticCurvePrivateKey, region: str, now: datetime) -> bytes:
    subject = _name(f"Nubila {region}")
    builder = _builder(f"Nubila {region}", subject, key.public_key(), now, CA_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
