"""The listeners on real sockets, under uvloop: TLS, certificates, and the end."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from nubila.access import authority
from nubila.api import server
from nubila.api.server import Listener, serve
from nubila.model import ids
from tests.api import toy
from tests.api.listeners import Site, answer, request_of, run


def test_tls_is_ours_and_new_enough(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        status, headers, body = await here.ask("user", "GET /v1/me")
        assert (status, json.loads(body)["role"]) == (200, "owner")
        assert "server" not in headers
        assert headers["date"].endswith("GMT")
        stranger = ssl.create_default_context()
        with pytest.raises(ssl.SSLCertVerificationError):
            await here.ask("user", "GET /v1/me", tls=stranger)
        for name, newest in (("user", ssl.TLSVersion.TLSv1_1), ("internal", ssl.TLSVersion.TLSv1_2)):
            old = here.client()
            old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            old.maximum_version = newest
            old.set_ciphers("ALL:@SECLEVEL=0")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await here.ask(name, "GET /healthz", tls=old)

    run(tmp_path, test)


def test_the_peers_certificate_says_who_it_is(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        node, body = f"node:{ids.text('node', toy.NODE_ID)}", b'{"session":1}'
        with_certificate = here.client(here.node())
        status, _, got = await here.ask("internal", "POST /internal/v1/reports", body, tls=with_certificate)
        assert (status, json.loads(got)["actor"]) == (200, node)
        assert (await here.ask("internal", "POST /internal/v1/reports", body))[0] == 401
        assert (await here.ask("internal", "GET /internal/v1/ca"))[0] == 200
        # On the people's planes a certificate is never asked for and means nothing.
        assert (await here.ask("user", "GET /v1/me", tls=with_certificate, token=""))[0] == 401

    run(tmp_path, test)


def test_other_certificates_do_not_even_connect(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = authority.open_or_create(
        tmp_path / "other/key", tmp_path / "other/pem", toy.REGION, datetime.now(UTC) - timedelta(days=1)
    )

    async def test(here: Site) -> None:
        servers_own = here.files(*here.ca.issue_server(["localhost"], here.clock()))
        for certificate in (here.node(other), servers_own):
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await here.ask("internal", "GET /internal/v1/ca", tls=here.client(certificate))

    run(tmp_path, test)


def test_a_lapsed_certificate_connects_and_is_good_for_no_work(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        report = ("internal", "POST /internal/v1/reports", b'{"session":1}')
        lapsed = here.client(here.node(now=here.clock() - timedelta(hours=25)))
        status, _, got = await here.ask(*report, tls=lapsed)
        assert (status, json.loads(got)["slug"]) == (401, "unauthenticated")
        assert "renew" in json.loads(got)["fix"].lower()
        assert (await here.ask(*report, tls=here.client(here.node())))[0] == 200

    run(tmp_path, test)


def test_a_node_cannot_pose_as_a_listener(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        posing = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        posing.load_cert_chain(*here.node())
        fake = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0, ssl=posing)
        client = here.client()
        client.check_hostname = False
        with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
            await asyncio.open_connection("127.0.0.1", fake.sockets[0].getsockname()[1], ssl=client)
        fake.close()

    run(tmp_path, test)


def test_a_connection_does_not_outlive_its_certificate(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        tls = here.client(here.node())
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port("internal"), ssl=tls)
        for by, status in ((timedelta(), 200), (timedelta(hours=25), 401)):
            here.clock.by = by
            writer.write(request_of("GET /internal/v1/wanted"))
            assert (await answer(reader))[0] == status
        writer.close()

    run(tmp_path, test)


def test_a_listeners_certificate_is_renewed_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TICK_S", 0.05)

    async def serial(here: Site) -> int:
        client = here.client()
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", here.port("user"), ssl=client)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return x509.load_der_x509_certificate(der).serial_number

    async def test(here: Site) -> None:
        first = await serial(here)
        assert await serial(here) == first
        here.clock.by = timedelta(days=16)
        await asyncio.sleep(0.2)
        assert await serial(here) != first

    run(tmp_path, test)


def test_the_end_loses_no_answer(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        started = time.monotonic()
        slow = asyncio.create_task(here.ask("user", "GET /v1/slow"))
        held = asyncio.create_task(here.ask("user", "GET /v1/held?wait=60"))
        _idle, idle_writer = await asyncio.open_connection("127.0.0.1", here.port("user"), ssl=here.client())
        port = here.port("user")
        await asyncio.sleep(0.1)
        here.stop.set()
        assert json.loads((await held)[2]) == {"happened": False}
        assert time.monotonic() - started < 0.25
        assert json.loads((await slow)[2]) == {"done": True}
        assert here.task is not None
        await asyncio.wait_for(here.task, 5)
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", port)
        idle_writer.close()

    run(tmp_path, test)


@pytest.mark.slow
def test_what_outlasts_the_grace_is_told_so(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        here.toy.user.gate.held.clear()
        late = asyncio.create_task(here.ask("user", "GET /v1/late"))
        await asyncio.sleep(0.1)
        here.stop.set()
        status, headers, _ = await late
        assert (status, headers["retry-after"]) == (503, "1")

    run(tmp_path, test)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        taken = Listener(here.toy.user, "127.0.0.1", here.port("plain"), None)
        with pytest.raises(OSError, match=str(here.port("plain"))):
            await serve([taken], asyncio.Event())

    run(tmp_path, test)
