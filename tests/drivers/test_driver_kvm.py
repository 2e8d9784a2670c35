"""The probe of KVM: it answers in words, boots at most once per boot of the machine, and never guesses."""

from __future__ import annotations

from pathlib import Path

import pytest

from nubila.drivers.hypervisor import kvm


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr(kvm, "_DEVICE", path)
    return path


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "kernel"
    path.touch()
    return path


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for QEMU: says what is in the file, and leaves a mark each time it runs."""
    path = tmp_path / "qemu"
    path.write_text(f"#!/bin/sh\necho x >> {tmp_path}/runs\ncat {tmp_path}/says\n")
    path.chmod(0o755)
    monkeypatch.setattr(kvm, "EMULATOR", str(path))
    return tmp_path


def test_without_a_device_or_a_kernel_it_is_not_usable(tmp_path: Path, device: Path, kernel: Path) -> None:
    assert kvm.probe_kvm(None, None, tmp_path / "cache") == (False, "there is no kernel and initrd to try KVM with")
    assert kvm.probe_kvm(kernel, tmp_path / "none", tmp_path / "cache")[0] is False
    device.unlink()
    assert kvm.probe_kvm(kernel, kernel, tmp_path / "cache") == (False, "this machine has no /dev/kvm")


@pytest.mark.parametrize(
    ("says", "usable", "words"),
    [
        ("Linux\n[ 1.0] Run /init as init process\n", True, "booted"),
        ("Linux\nKVM internal error. Suberror: 1\n", False, "KVM internal error. Suberror: 1"),
        ("", False, "last words: none"),
    ],
)
def test_what_the_guest_says_decides(
    qemu: Path, device: Path, kernel: Path, says: str, usable: bool, words: str
) -> None:
    (qemu / "says").write_text(says)
    for _ in range(2):
        got = kvm.probe_kvm(kernel, kernel, qemu / "cache")
        assert got[0] is usable
        assert words in got[1]
    assert (qemu / "runs").read_text() == "x\n"


def test_another_boot_or_another_kernel_is_tried_anew(
    qemu: Path, device: Path, kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (qemu / "says").write_text("")
    kvm.probe_kvm(kernel, kernel, qemu / "cache")
    monkeypatch.setattr(kvm, "boot_id", lambda: "another")
    kvm.probe_kvm(kernel, kernel, qemu / "cache")
    (qemu / "cache").write_text("not json")
    kvm.probe_kvm(kernel, kernel, qemu / "cache")
    assert (qemu / "runs").read_text() == "x\n" * 3


@pytest.mark.real
def test_on_this_machine_it_answers(tmp_path: Path, guest_image: Path) -> None:
    usable, reason = kvm.probe_kvm(guest_image / "vmlinuz", guest_image / "initrd.gz", tmp_path / "cache")
    assert reason
    if not Path("/dev/kvm").exists():
        assert not usable
