"""The fixtures: a fake API, and the command line run against it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nubila.client import calls
from tests.cli.fake_api import OPERATOR_TOKEN, USER_TOKEN, Cli, Fake


@pytest.fixture
def fake() -> Iterator[Fake]:
    made = Fake()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def contexts_file(tmp_path: Path) -> Path:
    return tmp_path / "config" / "contexts.json"


@pytest.fixture
def cli(fake: Fake, contexts_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    contexts_file.parent.mkdir()
    context = {
        "name": "home",
        "user_url": fake.url,
        "operator_url": fake.url,
        "user_token": USER_TOKEN,
        "operator_token": OPERATOR_TOKEN,
        "project": "default",
        "ssh_key": "id",
    }
    contexts_file.write_text(json.dumps({"current": "home", "contexts": [context]}))
    contexts_file.chmod(0o600)
    monkeypatch.setenv("NUBILA_CONTEXTS", str(contexts_file))
    monkeypatch.delenv("NUBILA_CONTEXT", raising=False)
    monkeypatch.setattr(calls, "PAUSE_S", 0.01)
    monkeypatch.setattr(calls, "PAUSE_MAX_S", 0.02)
    return Cli(contexts_file, capsys)
