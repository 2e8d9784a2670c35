"""The seed: what a guest reads from it, proven with isoinfo, and with values that want to be more than values."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from agent_control import vm
from hypothesis import given, settings
from hypothesis import strategies as st

from nubila.agent import seed
from nubila.agent.iso9660 import SECTOR, image


def read(iso: Path, name: str) -> bytes:
    return subprocess.run(["isoinfo", "-J", "-i", iso, "-x", f"/{name}"], capture_output=True, check=True).stdout


def test_isoinfo_reads_it(tmp_path: Path) -> None:
    wish = vm(user_data="#!/bin/sh\necho \x00 é\n" * 5000, boot_string='a "b": \n c')
    path = Path(seed.write(wish, str(tmp_path), os.geteuid()))
    assert path.stat().st_mode & 0o777 == 0o400
    shown = subprocess.run(["isoinfo", "-d", "-i", path], capture_output=True, text=True, check=True).stdout
    assert "Volume id: cidata" in shown and "Joliet" in shown
    assert read(path, "user-data") == wish.user_data.encode()  # type: ignore[union-attr]
    assert read(path, "meta-data").decode() == seed.meta_data(wish)
    assert json.loads(read(path, "network-config"))["version"] == 2
    listed = subprocess.run(["isoinfo", "-l", "-i", path], capture_output=True, text=True, check=True).stdout
    assert "META-DATA;1" in listed  # for readers without Joliet
    assert path.stat().st_size % SECTOR == 0
    assert path.read_bytes()[:32768] == bytes(32768)
    seed.write(vm(user_data="x"), str(tmp_path), os.geteuid())
    assert read(path, "user-data") == b"x"


@pytest.mark.parametrize("lie", ["link", "fifo"])
def test_what_the_vms_user_put_there_is_not_opened(tmp_path: Path, lie: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("untouched")
    room = tmp_path / "room"
    room.mkdir()
    if lie == "link":
        (room / seed.NAME).symlink_to(secret)
    else:
        os.mkfifo(room / seed.NAME)
    path = Path(seed.write(vm(), str(room), os.geteuid()))
    assert secret.read_text() == "untouched"
    assert path.is_file() and not path.is_symlink()


def test_a31_mutant_that_opens_what_lies_there_writes_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard removed: neither made anew nor refused to follow."""
    secret = tmp_path / "secret"
    secret.write_text("untouched")
    (tmp_path / seed.NAME).symlink_to(secret)
    for flag in ("O_EXCL", "O_NOFOLLOW"):
        monkeypatch.setattr(os, flag, 0)
    seed.write(vm(), str(tmp_path), os.geteuid())
    assert secret.read_bytes() != b"untouched"


def test_contents() -> None:
    wish = vm(hostname="web-1", boot_string="opaque: {x}")
    meta = seed.meta_data(wish)
    assert f"instance-id: {wish.vm_id}\n" in meta
    assert "local-hostname: web-1\n" in meta
    assert 'boot-string: "opaque: {x}"' in meta
    assert json.loads(meta.split("public-keys: ")[1].split("\n")[0]) == list(wish.keys)
    first, rest = seed.user_data(wish).split("\n", 1)
    assert first == "#cloud-config"
    assert json.loads(rest)["ssh_authorized_keys"] == list(wish.keys)
    nic = json.loads(seed.network_config(wish))["ethernets"]["nic0"]
    assert nic["dhcp4"] is True
    assert nic["match"] == {"macaddress": wish.nics[0].mac}
    assert nic["addresses"] == [wish.nics[0].addresses[1] + "/64"]
    assert nic["routes"] == [{"to": "::/0", "via": "fd09::1"}]


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60), st.lists(st.text(max_size=40), max_size=3))
def test_no_value_becomes_syntax(hostname: str, boot_string: str, keys: list[str]) -> None:
    hostname = hostname or "h"
    meta = seed.meta_data(vm(hostname=hostname, boot_string=boot_string, keys=tuple(keys)))
    names = [line.split(":")[0] for line in meta.splitlines()]
    assert names == ["instance-id", "local-hostname", "public-keys"] + (["boot-string"] if boot_string else [])
    said = re.search(r"local-hostname: (.*)", meta)[1]  # type: ignore[index]
    assert (json.loads(said) if said.startswith('"') else said) == hostname


@pytest.mark.parametrize("word", ["no", "true", "12", "1e3", "null", "-x", "a b", "~"])
def test_yaml_words_are_quoted(word: str) -> None:
    assert f'local-hostname: "{word}"\n' in seed.meta_data(vm(hostname=word))


def test_image_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(ValueError, match="short"):
        image("x" * 17, {})
    with pytest.raises(ValueError, match="many"):
        image("x", {f"file-{n:02}": b"" for n in range(60)})
