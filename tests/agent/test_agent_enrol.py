"""Enrolment and renewal over real TLS, and an agent process from join token to SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from agent_control import Control, vm
from agent_https import HttpsControl

from nubila.agent import enrol, keypair
from nubila.client.answers import ProblemError
from nubila.client.transport import Transport
from nubila.client.trust import WrongCa


@pytest.fixture
def https(tmp_path: Path) -> Iterator[HttpsControl]:
    made = HttpsControl(tmp_path / "control", Control())
    yield made
    made.close()


def wire(https: HttpsControl, identity: enrol.Identity) -> Transport:
    return Transport(https.url, ca=identity.ca, certificate=identity.certificate, key=identity.certificate)


def test_enrol_and_renew(https: HttpsControl, tmp_path: Path) -> None:
    directory, token = tmp_path / "identity", tmp_path / "token"
    token.write_text(https.token() + "\n")
    assert enrol.load(directory) is None
    identity = enrol.enrol(directory, https.url, token, "host.example")
    assert enrol.load(directory) == identity
    assert {p.name: p.stat().st_mode & 0o777 for p in directory.iterdir()} == {
        "node.pem": 0o600,
        "ca.pem": 0o600,
        "identity.json": 0o600,
    }
    before = identity.certificate.read_text()
    renewed = enrol.renew(directory, wire(https, identity), "host.example")
    assert renewed.node_id == identity.node_id
    assert renewed.certificate.read_text() != before
    assert https.peers[-1] == f"spiffe://{identity.region}/node/{identity.node_id}"
    wire(https, renewed).request("GET", "/internal/v1/images/x/content")


def test_validity_is_read_without_a_library(https: HttpsControl, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(https.token())
    identity = enrol.enrol(tmp_path / "identity", https.url, token, "host")
    begin, end = enrol.validity(identity.certificate.read_text())
    now = datetime.now(UTC)
    assert begin <= now < end
    assert timedelta(hours=23) < end - begin < timedelta(hours=25)
    assert not enrol.renewal_due(identity, now)
    assert enrol.renewal_due(identity, end - (end - begin) * 0.3)


def test_a_wrong_ca_is_told_nothing(https: HttpsControl, tmp_path: Path) -> None:
    token = tmp_path / "token"
    text = https.token()
    token.write_text(text[:-64] + "0" * 64)
    with pytest.raises(WrongCa):
        enrol.enrol(tmp_path / "identity", https.url, token, "host")
    assert https.tokens[text][0] == ""


def test_killed_after_the_control_plane_took_the_token(
    https: HttpsControl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, token = tmp_path / "identity", tmp_path / "token"
    token.write_text(https.token())
    with monkeypatch.context() as m:
        m.setattr(enrol, "_write", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            enrol.enrol(directory, https.url, token, "host")
    assert enrol.load(directory) is None
    assert enrol.enrol(directory, https.url, token, "host").node_id.startswith("node-")


@pytest.mark.slow
def test_a_used_token_is_refused_to_another_machine(https: HttpsControl, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(https.token())
    enrol.enrol(tmp_path / "a", https.url, token, "a")
    with pytest.raises(ProblemError):
        enrol.enrol(tmp_path / "b", https.url, token, "b")


@pytest.mark.parametrize("text", ["", "nbj_x", "nbu_" + "0" * 26])
def test_no_token(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(enrol.NotEnrolled):
        enrol.read_token(tmp_path / "token")
    with pytest.raises(enrol.NotEnrolled, match="put a join token"):
        enrol.read_token(tmp_path / "none")


def test_the_key_pair_is_for_root_only(tmp_path: Path) -> None:
    keypair.make(tmp_path / "request.pem", "host")
    assert (tmp_path / "request.pem").stat().st_mode & 0o777 == 0o600


def _wait(true: object, within_s: float = 15.0) -> None:
    due_s = time.monotonic() + within_s
    while not true():  # type: ignore[operator]
        assert time.monotonic() < due_s
        time.sleep(0.02)


@pytest.mark.slow
def test_process_from_token_to_sigterm_and_kill(https: HttpsControl, tmp_path: Path) -> None:
    control, var = https.control, tmp_path / "var"
    env = {
        **os.environ,
        "NUBILA_NAME": "agenttest",
        "NUBILA_VAR": str(var),
        "NUBILA_RUN": str(tmp_path / "run"),
        "NUBILA_INTERNAL_PORT": str(https.port),
        "NUBILA_DRIVERS": "fake",
    }
    command = [sys.executable, "-m", "nubila", "agent"]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
    try:
        _wait((var / "node").exists)
        time.sleep(0.5)
        assert process.poll() is None  # it waits for its token
        secret = https.token()
        (var / "node" / "join-token").write_text(secret)
        wishes = [vm() for _ in range(5)]
        control.wish(*wishes)
        _wait(lambda: len(control.reports) == 5 and all(r.power == "on" for r in control.reports.values()))
        assert not (var / "node" / "join-token").exists()
        process.kill()
        process.wait()
        control.reports.clear()
        process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
        _wait(lambda: len(control.reports) == 5 and all(r.power == "on" for r in control.reports.values()))
        assert all(r.starts == 1 and r.reason is None for r in control.reports.values())
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=10)
        assert process.returncode == 0
        assert secret.encode() not in said
        assert secret[31:74].encode() not in said
    finally:
        process.kill()
        process.wait()
