"""An installation that listens on all addresses: its own parts reach it, and so do others, under the names it has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from nubila.access import tokens
from nubila.client.transport import ConnectionFailed, Transport
from nubila.client.trust import fetch_ca
from tests import postgres
from tests.fleet.installation import Installation

OTHERS = "127.0.0.2"  # another address of this machine, as one that others would use


class Everywhere(Installation):
    def _environment(self, name: str) -> dict[str, str]:
        return super()._environment(name) | {"NUBILA_LISTEN": "0.0.0.0", "NUBILA_NAMES": OTHERS}


@pytest.fixture(scope="module")
def everywhere() -> Iterator[Everywhere]:
    with contextlib.ExitStack() as stack:
        made = Everywhere(stack.enter_context(postgres.server()), 1)
        stack.callback(made.destroy)
        made.create()  # its agent has enrolled and reports
        yield made


def test_its_agent_and_others_reach_it(everywhere: Everywhere) -> None:
    ports = (*everywhere.ports["front1"], everywhere.settings.internal_port)
    for host in ("127.0.0.1", OTHERS):
        for port in ports:
            transport = Transport(f"https://{host}:{port}", ca=everywhere.settings.ca_file)
            assert transport.request("GET", "/readyz").status == 200
            transport.close()


def test_a_name_that_it_has_not_is_refused(everywhere: Everywhere) -> None:
    with pytest.raises(ConnectionFailed, match="127.0.0.3"):
        Transport(f"https://127.0.0.3:{everywhere.ports['front1'][0]}", ca=everywhere.settings.ca_file).request(
            "GET", "/"
        )


def test_a_join_token_says_where_others_reach_it(everywhere: Everywhere) -> None:
    """And there is the CA that the token names."""
    made = everywhere.operator().post("/v1/join-tokens", {}).ok()
    assert made["internal_url"] == f"https://{OTHERS}:{everywhere.settings.internal_port}"
    token = tokens.parse(made["token"])
    assert token is not None
    assert token.ca_sha256 is not None
    assert fetch_ca(made["internal_url"], token.ca_sha256) == everywhere.settings.ca_file.read_text()
