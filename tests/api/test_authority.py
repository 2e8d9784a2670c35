"""The certificate authority: what it makes, from what, and what it refuses to replace."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from nubila.access import authority
from nubila.errors import Invalid
from nubila.model import ids

NOW = datetime.now(UTC).replace(microsecond=0)
NODE = ids.uuid7(1, 1)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def csr(key: Key, *, name: str = "x", sans: list[x509.GeneralName] | None = None) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def made(tmp_path: Path, name: str = "a") -> authority.Authority:
    return authority.open_or_create(tmp_path / f"{name}.key", tmp_path / f"{name}.pem", "region-1", NOW)


def test_made_once_and_read_again(tmp_path: Path) -> None:
    os.umask(0o077)
    first = made(tmp_path)
    again = made(tmp_path)
    assert first.ca_sha256 == again.ca_sha256
    assert len(first.ca_sha256) == 64
    assert stat.S_IMODE(os.stat(tmp_path / "a.key").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "a.pem").st_mode) == 0o644
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.key", "a.pem"]


def test_of_processes_that_start_together_one_wins(tmp_path: Path) -> None:
    pids = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                made(tmp_path)
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    made(tmp_path)


def test_nothing_is_replaced(tmp_path: Path) -> None:
    made(tmp_path, "a")
    made(tmp_path, "b")
    (tmp_path / "b.pem").replace(tmp_path / "a.pem")
    with pytest.raises(authority.BrokenAuthority, match="belong together"):
        made(tmp_path, "a")
    (tmp_path / "a.key").unlink()
    with pytest.raises(authority.BrokenAuthority, match="is not"):
        made(tmp_path, "a")
    assert not (tmp_path / "a.key").exists()


def test_a_node_certificate_holds_only_what_we_say(tmp_path: Path) -> None:
    ca, key = made(tmp_path), ec.generate_private_key(ec.SECP256R1())
    wished = csr(
        key, name="root", sans=[x509.UniformResourceIdentifier("spiffe://region-1/node/other"), x509.DNSName("x")]
    )
    certificate = x509.load_pem_x509_certificate(ca.issue_node(wished, NODE, NOW).encode())
    certificate.verify_directly_issued_by(ca.certificate)
    sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [s.value for s in sans] == [f"spiffe://region-1/node/{ids.text('node', NODE)}"]
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.not_valid_before_utc == NOW - timedelta(minutes=5)
    assert certificate.not_valid_after_utc == NOW + timedelta(hours=24)
    assert certificate.public_key() == key.public_key()


def test_renewal_is_due_from_half_of_its_life(tmp_path: Path) -> None:
    pem = made(tmp_path).issue_node(csr(ec.generate_private_key(ec.SECP256R1())), NODE, NOW)
    assert not authority.renewal_due(pem, NOW + timedelta(hours=11, minutes=55))
    assert authority.renewal_due(pem, NOW + timedelta(hours=12))


def test_server_certificate(tmp_path: Path) -> None:
    ca = made(tmp_path)
    names = authority.server_names("0.0.0.0", ["host.example", "192.0.2.7"])
    chain, _ = ca.issue_server(names, NOW)
    leaf, top = x509.load_pem_x509_certificates(chain)
    assert top == ca.certificate
    sans = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(s.value) for s in sans] == ["localhost", "127.0.0.1", "::1", "host.example", "192.0.2.7"]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


def _tampered(pem: str) -> str:
    raw = bytearray(x509.load_pem_x509_csr(pem.encode()).public_bytes(serialization.Encoding.DER))
    raw[-1] ^= 1  # the signature's last bit
    return x509.load_der_x509_csr(bytes(raw)).public_bytes(serialization.Encoding.PEM).decode()


def test_bad_signing_requests(tmp_path: Path) -> None:
    ca = made(tmp_path)
    good = csr(ec.generate_private_key(ec.SECP256R1()))
    for bad in (
        "",
        "x",
        good[:200],
        good.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
        csr(ec.generate_private_key(ec.SECP384R1())),
        csr(rsa.generate_private_key(65537, 2048)),
        _tampered(good),
        good + " " * 9000,
        "\ud800",
    ):
        with pytest.raises(Invalid):
            ca.issue_node(bad, NODE, NOW)


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda b: b.decode("latin-1")))
def test_no_text_breaks_the_reader_of_requests(text: str) -> None:
    with pytest.raises(Invalid):
        authority.csr_key(f"-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")


def test_region_is_a_trust_domain(tmp_path: Path) -> None:
    for region in ("", "A", "a/b", "a b", "a" * 64, "a\n"):
        with pytest.raises(ValueError, match="region"):
            authority.open_or_create(tmp_path / "k", tmp_path / "c", region, NOW)


def test_threads_share_it(tmp_path: Path) -> None:
    ca = made(tmp_path)
    request = csr(ec.generate_private_key(ec.SECP256R1()))
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: ca.issue_node(request, NODE, NOW), range(20)))) == 20
