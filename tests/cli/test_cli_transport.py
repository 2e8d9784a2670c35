"""The transport: whom it trusts, what it sends twice, and what its errors say."""

from __future__ import annotations

import datetime
import hashlib
import http.server
import io
import ipaddress
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nubila.client import transport as module
from nubila.client.answers import ConnectionFailed, ProblemError, TimedOut, expect
from nubila.client.transport import Transport
from nubila.client.trust import WrongCa, fetch_ca
from tests.cli.fake_api import Asked, Canned, Fake, problem

SECRET = "nbu_1_verysecret"


def certificate(path: Path, name: str) -> Path:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = path / f"{name}.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (path / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem


class Tls:
    """The fake API behind TLS."""

    def __init__(self, fake: Fake, directory: Path) -> None:
        self.fake, self.pem = fake, certificate(directory, "ours")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem, directory / "ours.key")
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), fake.server.RequestHandlerClass)
        self.server.daemon_threads = True
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def tls(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tls]:
    made = Tls(fake, tmp_path)
    # a client that refuses the certificate is not worth a traceback
    monkeypatch.setattr(made.server, "handle_error", lambda *args: None)
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_only_the_given_ca_is_trusted(tls: Tls, fake: Fake, tmp_path: Path) -> None:
    fake.on("GET", "/x", Canned({"ok": 1}))
    assert Transport(tls.url, ca=tls.pem, token=SECRET).request("GET", "/x").json() == {"ok": 1}
    assert Transport(tls.url, ca=tls.pem.read_text()).request("GET", "/x").status == 200
    other = certificate(tmp_path, "theirs")
    with pytest.raises(ConnectionFailed, match="not trusted") as caught:
        Transport(tls.url, ca=other, token=SECRET).request("GET", "/x")
    assert not caught.value.may_have_arrived
    assert "CA file" in caught.value.how
    assert SECRET not in str(caught.value)


def test_host_names_are_checked(tls: Tls) -> None:
    with pytest.raises(ConnectionFailed, match=r"not trusted: .*localhost"):
        Transport(f"https://localhost:{tls.port}", ca=tls.pem).request("GET", "/x")


def test_tls_connections_are_kept(tls: Tls, fake: Fake) -> None:
    fake.on("POST", "/x", Canned({}))
    client = Transport(tls.url, ca=tls.pem)
    for _ in range(5):
        client.request("POST", "/x", body=b"{}")
    assert len(client._idle) == 1


def test_ca_by_its_hash(tls: Tls, fake: Fake) -> None:
    pem = tls.pem.read_text()
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    fake.on("GET", "/internal/v1/ca", Canned({"ca_pem": pem}), Canned(pem.encode()))
    assert fetch_ca(tls.url, digest).split() == pem.split()
    assert fetch_ca(tls.url, digest).split() == pem.split()
    with pytest.raises(WrongCa):
        fetch_ca(tls.url, "0" * 64)


@pytest.mark.parametrize("url", ["http://192.0.2.1:1", "ftp://127.0.0.1", "127.0.0.1:8440", "https://u:p@127.0.0.1"])
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"loopback|https://|credential"):
        Transport(url, ca="-----BEGIN")


def test_https_needs_a_ca() -> None:
    with pytest.raises(ValueError, match="CA"):
        Transport("https://127.0.0.1:1")


def test_token_is_in_no_text() -> None:
    assert SECRET not in repr(Transport("http://127.0.0.1:1", token=SECRET))
    with pytest.raises(ValueError, match="one word") as caught:
        Transport("http://127.0.0.1:1", token=f"{SECRET}\nX: y")
    assert SECRET not in str(caught.value)
    with pytest.raises(ConnectionFailed) as failed:
        Transport("http://127.0.0.1:1", token=SECRET).request("GET", "/x", query={"a": "hidden"})
    assert SECRET not in str(failed.value)
    assert "hidden" not in str(failed.value)


def test_stale_connection_is_reopened(fake: Fake) -> None:
    """The server closes after its first answer without saying so; the next request finds out."""
    client = Transport(fake.url)
    fake.on("GET", "/x", Canned({"n": 1}), Canned(drop=True), Canned({"n": 2}))
    assert client.request("GET", "/x").json() == {"n": 1}
    assert client.request("GET", "/x").json() == {"n": 2}


@pytest.mark.parametrize(("headers", "sent"), [({}, 2), ({"Idempotency-Key": "k"}, 3)])
def test_writes_are_sent_twice_only_with_a_key(fake: Fake, headers: dict[str, str], sent: int) -> None:
    client = Transport(fake.url)
    fake.on("POST", "/x", Canned({}), Canned(drop=True), Canned({}))
    client.request("POST", "/x", body=b"1", headers=headers)
    if headers:
        client.request("POST", "/x", body=b"1", headers=headers)
    else:
        with pytest.raises(ConnectionFailed, match="connection was lost during POST /x") as caught:
            client.request("POST", "/x", body=b"1")
        assert caught.value.may_have_arrived
    assert len(fake.asked) == sent


def test_a_new_connection_that_breaks_is_not_tried_again(fake: Fake) -> None:
    fake.on("GET", "/x", Canned(drop=True))
    with pytest.raises(ConnectionFailed):
        Transport(fake.url).request("GET", "/x")
    assert len(fake.asked) == 1


def test_timeout(fake: Fake) -> None:
    def slow(asked: Asked) -> Canned:
        time.sleep(0.5)
        return Canned({})

    fake.on("GET", "/x", slow)
    with pytest.raises(TimedOut, match=r"no answer to GET /x within 0\.1 s"):
        Transport(fake.url).request("GET", "/x", timeout_s=0.1)


def test_close_wakes_a_waiting_thread(fake: Fake) -> None:
    def slow(asked: Asked) -> Canned:
        time.sleep(2)
        return Canned({})

    fake.on("GET", "/x", slow)
    client = Transport(fake.url)
    threading.Timer(0.1, client.close).start()
    began = time.monotonic()
    with pytest.raises(ConnectionFailed):
        client.request("GET", "/x")
    assert time.monotonic() - began < 1
    with pytest.raises(ConnectionFailed, match="closed"):
        client.request("GET", "/x")


def test_threads_share_a_transport(fake: Fake) -> None:
    fake.on("GET", "/x", Canned({"ok": 1}))
    client = Transport(fake.url)
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.extend(client.request("GET", "/x").status for _ in range(20)))
        for _ in range(8)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == [200] * 160
    assert len(client._idle) <= module.IDLE_MAX


def test_stream(fake: Fake) -> None:
    data = bytes(range(256)) * 4096
    fake.on("GET", "/x", Canned(data), problem(404, "not-found", "No."))
    client = Transport(fake.url)
    with client.stream("GET", "/x") as answer:
        assert answer.status == 200
        assert b"".join(answer.chunks(10_000)) == data
    assert len(client._idle) == 1
    with client.stream("GET", "/x") as answer, pytest.raises(ProblemError, match="No"):
        expect(answer.response())


def test_stream_left_early_closes(fake: Fake) -> None:
    fake.on("GET", "/x", Canned(b"x" * 5_000_000))
    client = Transport(fake.url)
    with client.stream("GET", "/x") as answer:
        next(answer.chunks(10))
    assert client._idle == []


def test_upload(fake: Fake) -> None:
    fake.on("PUT", "/x", Canned({}))
    client = Transport(fake.url)
    told: list[int] = []
    data = b"y" * 1_000_000
    assert client.upload("PUT", "/x", io.BytesIO(data), length=len(data), progress=told.append).status == 200
    assert fake.last().body == data
    assert told[-1] == len(data)
    assert client.upload("PUT", "/x", [b"a", b"b"], length=2).status == 200
    with pytest.raises(ValueError, match="3 bytes were announced and 2 were there"):
        client.upload("PUT", "/x", [b"ab"], length=3)
    with pytest.raises(ValueError, match="more were there"):
        client.upload("PUT", "/x", [b"ab"], length=1)


def test_problem_without_a_document() -> None:
    answer = module.Response(418, {"content-type": "text/html"}, b"x")
    with pytest.raises(ProblemError) as caught:
        expect(answer)
    assert (caught.value.status, caught.value.slug) == (418, "unexpected-answer")
    assert expect(answer, 418) is answer


def test_bad_paths() -> None:
    client = Transport("http://127.0.0.1:1")
    for path in ("x", "/a b", "/a\r\nX: y", "/\u00e9"):
        with pytest.raises(ValueError, match="percent-encoded"):
            client.request("GET", path)
