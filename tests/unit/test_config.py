"""Settings: what a person may write into nubila.toml, and the addresses that follow from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nubila.bootstrap.addresses import of_machine
from nubila.bootstrap.asked import NAME, RANGES
from nubila.bootstrap.children import kinds
from nubila.bootstrap.install import environment
from nubila.config import BadSettings, Settings, load
from nubila.model.network import TENANT_RANGES


def written(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "nubila.toml"
    file.write_text(text)
    return load(file, environ={})


# a file -> words that the person needs
WRONG: dict[str, str] = {
    "listen = ": "nubila.toml",
    "lisen = '::'": "unknown settings: lisen",
    "user_port = 70000": "user_port",
    "user_port = 8441": "three different ports",
    "listen = ''": "neither an IP address nor a host name",
    "listen = '10.0.0.300'": "10.0.0.300",
    "names = ['a b']": "a b",
    "names = ['fe80::1%eth0']": "fe80::1%eth0",
    "names = ['0.0.0.0']": "no addresses that anybody can go to",
    "name = 'A'": "lower-case",
    "control = '10.0.0.1:8442'": "not like https://10.0.0.1:8442",
    "control = 'https://10.0.0.1:8442/v1'": "not like https://10.0.0.1:8442",
    "control = 'http://10.0.0.1:8442'": "not like https://10.0.0.1:8442",
    "image_store = 'ftp'": "neither 'file' nor 's3'",
    "image_store = 's3'": "s3_endpoint and s3_bucket and s3_credentials_file",
    "s3_prefix = 'cloud'": "ends in '/'",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_used_is_told_with_the_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadSettings) as e:
        written(tmp_path, text)
    assert WRONG[text] in str(e.value)
    assert str(tmp_path / "nubila.toml") in str(e.value)


# listen, names -> as this machine reaches it, as others do
REACHED: list[tuple[str, tuple[str, ...], str, str]] = [
    ("127.0.0.1", (), "https://127.0.0.1:8440", "https://127.0.0.1:8440"),
    ("0.0.0.0", ("192.0.2.2",), "https://127.0.0.1:8440", "https://192.0.2.2:8440"),
    ("::", ("fd00::2", "192.0.2.2"), "https://[::1]:8440", "https://[fd00::2]:8440"),
    ("192.0.2.2", (), "https://192.0.2.2:8440", "https://192.0.2.2:8440"),
    ("192.0.2.2", ("cloud.example.org",), "https://192.0.2.2:8440", "https://cloud.example.org:8440"),
]


@pytest.mark.parametrize(("listen", "names", "here", "elsewhere"), REACHED)
def test_where_it_is_reached(listen: str, names: tuple[str, ...], here: str, elsewhere: str) -> None:
    settings = Settings(listen=listen, names=names)
    assert (settings.user_url, settings.elsewhere(settings.user_port)) == (here, elsewhere)
    assert settings.operator_url == here.replace("8440", "8441")


# settings -> parts of Nubila that run there
PARTS: list[tuple[Settings, set[str]]] = [
    (Settings(), {"database", "migrate", "fetcher", "control-internal", "control-public", "agent"}),
    (Settings(node=False), {"database", "migrate", "fetcher", "control-internal", "control-public"}),
    (Settings(control="https://10.0.0.1:8442"), {"agent"}),
]


@pytest.mark.parametrize(("settings", "names"), PARTS)
def test_what_runs_on_a_machine(settings: Settings, names: set[str]) -> None:
    assert {k.name for k in kinds(settings)} == names


def test_a_node_alone_speaks_to_its_control_plane() -> None:
    assert Settings(control="https://10.0.0.1:8442").internal_url == "https://10.0.0.1:8442"


def test_settings_reach_the_children_as_they_are() -> None:
    settings = Settings(name="x", listen="::", names=("fd00::2", "192.0.2.2"), bus=False, node=False)
    assert load(environ=environment(settings, "agent")) == settings
    assert load(environ=environment(Settings(), "agent")) == Settings()


def test_a_machines_own_addresses_begin_with_the_outward_ones() -> None:
    links = [
        {"ifname": "lo", "addr_info": [{"family": "inet", "local": "127.0.0.1", "scope": "host"}]},
        {"ifname": "docker0", "addr_info": [{"family": "inet", "local": "172.17.0.1", "scope": "global"}]},
        {
            "ifname": "eth0",
            "addr_info": [
                {"family": "inet6", "local": "fd00::2", "scope": "global"},
                {"family": "inet6", "local": "fd00::77", "scope": "global", "temporary": True},
                {"family": "inet6", "local": "fe80::1", "scope": "link"},
                {"family": "inet", "local": "192.0.2.2", "scope": "global"},
            ],
        },
        {"ifname": "n29b91z5k910vg1", "addr_info": [{"family": "inet", "local": "10.77.0.1", "scope": "global"}]},
    ]
    assert of_machine(links, [{"dst": "default", "dev": "eth0"}]) == ["192.0.2.2", "fd00::2", "172.17.0.1"]
    assert of_machine([], []) == []


def test_bootstrap_and_model_agree(tmp_path: Path) -> None:
    """The preflight runs before msgspec is there, so it has patterns of its own."""
    for name in ("nubila", "a1", "A", "1a", "a" * 12, "a" * 13, "a-b", "", "../x"):
        try:
            written(tmp_path, f"name = '{name}'")
            usable = True
        except BadSettings:
            usable = False
        assert usable == bool(NAME.fullmatch(name)), name
    assert {r for r in TENANT_RANGES if r.version == 4} == set(RANGES)
