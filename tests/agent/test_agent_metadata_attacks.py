"""A27: a guest gets its own metadata and nobody else's, whatever it says of itself and whoever had its address before.

Who asks is the network's bridge and the address that the rules on the tap pin. The twins ask in a weaker way, and show that
the judge would have seen it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from agent_control import new_id, vm

from nubila.agent.guests import Guests
from nubila.agent.metadata import Metadata, Request, Tokens, parse
from nubila.agent.wish import Wishes
from nubila.protocol import Vm

Who = Callable[[str, str], Vm | None]
MINE = "/latest/meta-data/instance-id"


class Host:
    """A node with the wishes of several projects."""

    def __init__(self, directory: Path):
        self.wishes = Wishes(directory)
        self.wishes.open()
        self.guests = Guests(self.wishes, cast(Any, None))

    def has(self, wish: Vm) -> Vm:
        self.wishes.put(wish, 1)
        self.guests.add(wish)
        return wish

    def loses(self, wish: Vm) -> None:
        self.guests.drop(wish)
        self.wishes.drop(wish.vm_id)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def on(wish: Vm, network_id: str, *addresses: str) -> Vm:
    """The vm with one interface there."""
    (nic,) = wish.nics
    network = msgspec.structs.replace(nic.network, network_id=network_id)
    return msgspec.structs.replace(wish, nics=(msgspec.structs.replace(nic, network=network, addresses=addresses),))


class Believing(Metadata):
    """A mutant: it takes a header's word for who asks."""

    def answer(self, network_id: str, source: str, request: Request) -> tuple[int, str, dict[str, str]]:
        said = next((v for k, v in request.headers.items() if k != "host"), source)
        return super().answer(network_id, said.rpartition("=")[2], request)


def asked(
    who: Who, network_id: str, address: str, path: str = MINE, headers: str = "", kind: type[Metadata] = Metadata
) -> tuple[int, str]:
    server = kind(who, lambda vm_id: None, region="r", zone="z")
    status, text, _ = server.answer(network_id, address, request(path, headers))
    return status, text


def request(path: str, headers: str = "", method: str = "GET") -> Request:
    return parse(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}".strip().encode())


def equal_addresses(host: Host, weaken: Callable[[Who], Who]) -> None:
    """Two projects have the same range, and a guest each with the same address: each is itself."""
    who = weaken(host.guests.who)
    first, second = new_id("network"), new_id("network")
    mine = host.has(on(vm(user_data="mine"), first, "10.9.0.7"))
    theirs = host.has(on(vm(user_data="theirs"), second, "10.9.0.7"))
    assert asked(who, first, "10.9.0.7") == (200, mine.vm_id)
    assert asked(who, second, "10.9.0.7") == (200, theirs.vm_id)
    assert asked(who, first, "10.9.0.7", "/latest/user-data") == (200, "mine")
    assert asked(who, second, "10.9.0.7", "/latest/user-data") == (200, "theirs")
    assert asked(who, new_id("network"), "10.9.0.7")[0] == 404


def reused_address(host: Host, weaken: Callable[[Who], Who]) -> None:
    """An address that moved from one guest to another tells of the new one only, and of nobody in between."""
    who = weaken(host.guests.who)
    network = new_id("network")
    old = host.has(on(vm(user_data="old secret"), network, "10.9.0.7", "10.9.0.8"))
    assert asked(who, network, "10.9.0.8") == (200, old.vm_id)
    host.has(on(old, network, "10.9.0.7"))  # unassigned
    assert asked(who, network, "10.9.0.8")[0] == 404
    new = host.has(on(vm(user_data="new"), network, "10.9.0.8"))
    host.has(on(old, network, "10.9.0.7"))  # told once more
    assert asked(who, network, "10.9.0.8", "/latest/user-data") == (200, "new")
    host.loses(old)
    assert asked(who, network, "10.9.0.7")[0] == 404
    assert asked(who, network, "10.9.0.8") == (200, new.vm_id)


def test_a27_two_tenants_with_equal_addresses_are_kept_apart(host: Host) -> None:
    equal_addresses(host, lambda who: who)


def test_a27_a_reused_address_tells_of_its_new_guest_only(host: Host) -> None:
    reused_address(host, lambda who: who)


def _by_address_alone(host: Host) -> Callable[[Who], Who]:
    def weaken(who: Who) -> Who:
        def found(network_id: str, address: str) -> Vm | None:
            vms = [e.vm for e in host.wishes.entries.values()]
            return next((v for v in vms for n in v.nics if address in n.addresses), None)

        return found

    return weaken


def _as_first_seen(host: Host) -> Callable[[Who], Who]:
    def weaken(who: Who) -> Who:
        known: dict[tuple[str, str], Vm | None] = {}

        def found(network_id: str, address: str) -> Vm | None:
            known[(network_id, address)] = known.get((network_id, address)) or who(network_id, address)
            return known[(network_id, address)]

        return found

    return weaken


def test_a27_without_the_network_or_with_a_memory_it_would_be_seen(host: Host) -> None:
    with pytest.raises(AssertionError):
        equal_addresses(host, _by_address_alone(host))
    with pytest.raises(AssertionError):
        reused_address(host, _as_first_seen(host))


def headers_are_no_word(host: Host, name: str, kind: type[Metadata] = Metadata) -> None:
    network = new_id("network")
    mine = host.has(on(vm(user_data="mine"), network, "10.9.0.7"))
    other = host.has(on(vm(user_data="theirs"), network, "10.9.0.8"))
    for value in ("10.9.0.8", other.vm_id, f"for=10.9.0.8;host={other.vm_id}"):
        header = f"{name}: {value}\r\n" if name != "Host" else ""
        assert asked(host.guests.who, network, "10.9.0.7", headers=header, kind=kind) == (200, mine.vm_id)
        forwarded = f"X-Forwarded-For: {value}\r\n"
        assert asked(host.guests.who, network, "10.9.0.9", headers=forwarded, kind=kind) == (404, "")


HEADERS = ["X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Instance-ID", "X-Tenant-ID", "Host"]


@pytest.mark.parametrize("name", HEADERS)
def test_a27_no_header_says_who_asks(host: Host, name: str) -> None:
    headers_are_no_word(host, name)


@pytest.mark.parametrize("name", HEADERS)
def test_a27_mutant_that_believes_a_header_would_be_seen(host: Host, name: str) -> None:
    with pytest.raises(AssertionError):
        headers_are_no_word(host, name, Believing)


def test_a27_a_token_of_the_one_before_opens_nothing_of_the_next(host: Host) -> None:
    token_of_the_one_before(host)


def test_a27_mutant_whose_tokens_are_nobodys_would_be_seen(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    sign = Tokens._sign
    monkeypatch.setattr(Tokens, "_sign", lambda self, vm_id, until: sign(self, "", until))
    with pytest.raises(AssertionError):
        token_of_the_one_before(host)


def token_of_the_one_before(host: Host) -> None:
    network = new_id("network")
    old = host.has(on(vm(), network, "10.9.0.7"))
    server = Metadata(host.guests.who, lambda vm_id: None, region="r", zone="z")
    ttl = "X-aws-ec2-metadata-token-ttl-seconds: 60"
    _, token, _ = server.answer(network, "10.9.0.7", request("/latest/api/token", ttl, "PUT"))
    with_token = request(MINE, f"X-aws-ec2-metadata-token: {token}")
    assert server.answer(network, "10.9.0.7", with_token)[:2] == (200, old.vm_id)
    host.loses(old)
    new = host.has(on(vm(), network, "10.9.0.7"))
    assert server.answer(network, "10.9.0.7", with_token)[0] == 401
    assert server.answer(network, "10.9.0.7", request(MINE))[:2] == (200, new.vm_id)
