"""A15 to A19: images that want the host to read, connect or work for them. Each guard has a mutant: without it they win.

What counts is what a guest would find in the disk made for it, and what a listener on the host hears.
"""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from pathlib import Path

import pytest
from driver_images import patched, qemu_img

from nubila.drivers import DriverError
from nubila.drivers.image_store import header
from nubila.drivers.storage import directory as driver
from nubila.drivers.storage import qcow2
from nubila.drivers.storage import qemu_img as qemu_img_driver
from nubila.drivers.storage.base import Options, Volume
from nubila.drivers.storage.directory import DirectoryStorage

SECRET = b"the host's secret " * 4096


@pytest.fixture
def storage(place: Path, tmp_path: Path) -> DirectoryStorage:
    return DirectoryStorage(Options(directory=str(place / hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12])))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_bytes(SECRET)
    return file


def open_and_write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def disk(storage: DirectoryStorage, content: bytes, image_format: str, format_: str = "raw") -> bytes:
    """What a guest finds in a volume made from this content, declared as that."""
    sha256 = hashlib.sha256(content).hexdigest()
    storage.ensure_image(sha256, lambda path: open_and_write(path, content))
    wish = Volume(
        volume_id="vol-1", format=format_, size_gib=1, uid=0, gid=0, image_sha256=sha256, image_format=image_format
    )
    path = Path(storage.ensure_volume(wish))
    if format_ == "raw":
        with path.open("rb") as file:
            return file.read(1 << 20)
    raw = path.with_name("read.raw")
    qemu_img("convert", "-f", "qcow2", "-O", "raw", path, raw)
    try:
        with raw.open("rb") as file:
            return file.read(1 << 20)
    finally:
        raw.unlink()


def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: our own reader of headers finds everything harmless."""
    monkeypatch.setattr(driver, "inspect", lambda *_: header.Header(format="x", virtual_bytes=512))


def backed(name: str, format_: str = "raw", size: int = 1 << 20) -> bytes:
    return qcow2.empty(size, name, format_)


def with_data_file(secret: Path, tmp_path: Path) -> bytes:
    image = tmp_path / "outside.qcow2"
    copy = tmp_path / "data"  # qemu-img truncates what it is given
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={copy},data_file_raw=on", image, "64K")
    name = str(copy).encode()
    content = image.read_bytes()
    at = content.index(name)
    assert len(str(secret)) <= len(name) + 64
    copy.write_bytes(SECRET)
    return content if at else b""


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_a15_a_backing_file_is_never_read(
    storage: DirectoryStorage, secret: Path, monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    evil = backed(str(secret))
    with pytest.raises(header.BadImage, match="backing"):
        header.inspect(evil, "qcow2", len(evil))
    with pytest.raises(DriverError, match="backing"):
        disk(storage, evil, "qcow2", format_)
    assert SECRET[:64] not in disk(storage, evil, "raw")  # declared as raw it is a disk that begins with these bytes
    storage.remove_volume("vol-1")
    unguarded(monkeypatch)
    assert disk(storage, evil, "qcow2", format_).startswith(SECRET[:64])


def test_a16_an_external_data_file_is_never_read(
    storage: DirectoryStorage, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = with_data_file(secret, tmp_path)
    with pytest.raises(header.BadImage, match="another file|external"):
        header.inspect(evil, "qcow2", len(evil))
    with pytest.raises(DriverError, match="another file|external"):
        disk(storage, evil, "qcow2")
    unguarded(monkeypatch)
    assert disk(storage, evil, "qcow2").startswith(SECRET[:64])


NBD = (
    "nbd://127.0.0.1:{}",
    'json:{{"driver":"raw","file":{{"driver":"nbd","server":{{"type":"inet","host":"127.0.0.1","port":"{}"}}}}}}',
)


@pytest.mark.parametrize("scheme", NBD, ids=["nbd", "json"])
def test_a17_no_name_in_a_header_makes_the_host_connect(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.3)
        evil = backed(scheme.format(listener.getsockname()[1]))
        with pytest.raises(DriverError, match="backing"):
            disk(storage, evil, "qcow2")
        with pytest.raises(TimeoutError):
            listener.accept()
        unguarded(monkeypatch)
        with pytest.raises(DriverError):  # the second guard: qemu-img has no network
            disk(storage, evil, "qcow2")
        with pytest.raises(TimeoutError):
            listener.accept()
        monkeypatch.setattr(qemu_img_driver, "ISOLATED", ())
        listener.settimeout(10)

        def answer() -> None:
            with listener.accept()[0]:
                heard.append(True)

        heard: list[bool] = []
        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(DriverError):
            disk(storage, evil, "qcow2")
        thread.join()
        assert heard


def test_a17_a_vmdk_descriptor_is_bytes_and_no_format(storage: DirectoryStorage, secret: Path, tmp_path: Path) -> None:
    """The mutant is qemu-img left to guess: it follows the descriptor."""
    text = (
        '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
        f'RW {len(SECRET) // 512} FLAT "{secret}" 0\nddb.virtualHWVersion = "4"\n'
        'ddb.geometry.cylinders = "1"\nddb.geometry.heads = "16"\nddb.geometry.sectors = "63"\n'
    ).encode()
    for declared in ("qcow2", "iso"):
        with pytest.raises(header.BadImage):
            header.inspect(text, declared, len(text))
    for declared in ("vmdk", "", "vhdx", "json"):
        with pytest.raises(header.BadImage, match="not supported"):
            header.inspect(text, declared, len(text))
    assert disk(storage, text, "raw").startswith(text)
    guessed, file = tmp_path / "guessed", tmp_path / "x.vmdk"
    file.write_bytes(text)
    qemu_img("convert", "-O", "raw", file, guessed)
    assert guessed.read_bytes().startswith(SECRET[:64])


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_a18_a_header_that_a_guest_writes_stays_data(
    storage: DirectoryStorage, secret: Path, tmp_path: Path, format_: str
) -> None:
    """A raw disk that becomes an image again, with a qcow2 header in it: its next guest finds that header, not the secret."""
    evil = backed(str(secret))
    found = disk(storage, evil, "raw", format_)
    assert found.startswith(evil[:512])
    assert SECRET[:64] not in found
    # the same volume again, as after each restart: its bytes are not looked at
    if format_ == "raw":
        wish = Volume(volume_id="vol-1", format="raw", size_gib=1, uid=0, gid=0)
        assert Path(storage.ensure_volume(wish)).read_bytes()[:512] == evil[:512]
    file, guessed = tmp_path / "disk", tmp_path / "guessed"
    file.write_bytes(evil)
    qemu_img("convert", "-O", "raw", file, guessed)  # the mutant: a format that is guessed
    assert guessed.read_bytes().startswith(SECRET[:64])


@pytest.mark.parametrize(
    ("what", "offset", "layout", "value"),
    [("virtual size", 24, ">Q", 1 << 62), ("L1 table", 36, ">I", 1 << 30), ("refcount table", 56, ">I", 1 << 30),
     ("cluster size", 20, ">I", 60), ("snapshots", 60, ">I", 1 << 30)],
)  # fmt: skip
def test_a19_a_header_that_asks_for_much_work_is_refused(what: str, offset: int, layout: str, value: int) -> None:
    good = qcow2.empty(1 << 20)
    header.inspect(good, "qcow2", len(good))
    with pytest.raises(header.BadImage):
        header.inspect(patched(good, offset, layout, value), "qcow2", len(good))


def test_a19_extensions_without_end_are_refused() -> None:
    good = qcow2.empty(1 << 20)
    endless = bytearray(good)
    at = int.from_bytes(good[100:104], "big")
    while at + 8 <= header.HEAD_BYTES:
        struct.pack_into(">II", endless, at, 0x12345678, 0)
        at += 8
    with pytest.raises(header.BadImage, match="do not end"):
        header.inspect(bytes(endless[: header.HEAD_BYTES]), "qcow2", len(endless))


HELPER = 1_900_099


def seen_at_work(place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What /proc says of qemu-img while it works: another program stands in its place and reads it."""
    bin_, said = place / "bin", place / "said"
    bin_.mkdir(exist_ok=True)
    program = bin_ / "qemu-img"
    program.write_text(
        f"#!/bin/sh\ncat /proc/self/limits /proc/self/status /proc/net/dev > {said}\nls /proc/self/fd >> {said}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:/usr/sbin:/usr/bin:/sbin:/bin")
    said.touch()
    said.chmod(0o666)
    qemu_img_driver.run(["info"], "looking", file_bytes=1 << 20, uid=HELPER)
    found: dict[str, str] = {}
    for line in said.read_text().splitlines():
        for name in (
            "Max address space",
            "Max cpu time",
            "Max file size",
            "Max core file size",
            "NoNewPrivs:",
            "Uid:",
            "CapEff:",
        ):
            if line.startswith(name):
                found[name] = line.removeprefix(name).split()[0]
        if ":" in line and line.split(":")[0].strip() not in ("lo", "Inter-|   Receive") and "bytes" not in line:
            key, _, rest = line.partition(":")
            if len(rest.split()) == 16:
                found[f"link {key.strip()}"] = "there"
    return found


@pytest.mark.real
def test_a19_qemu_img_works_within_limits_and_without_a_network(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory, processor time, file size; no new privileges; no link but loopback. The mutant has the host's links."""
    seen = seen_at_work(place, monkeypatch)
    assert seen == {
        "Max address space": str(qemu_img_driver.MEMORY_BYTES),
        "Max cpu time": str(qemu_img_driver.CPU_S),
        "Max file size": str(1 << 20),
        "Max core file size": "0",
        "NoNewPrivs:": "1",
        "Uid:": str(HELPER),
        "CapEff:": "0" * 16,
    }
    monkeypatch.setattr(qemu_img_driver, "ISOLATED", ())
    mutant = seen_at_work(place, monkeypatch)
    assert mutant["NoNewPrivs:"] == "0"
    links = {line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]} - {"lo"}
    assert {name.removeprefix("link ") for name in mutant if name.startswith("link ")} == links


@pytest.mark.real
def test_a15_what_a_program_could_be_made_to_read_its_user_may_not(
    place: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second guard, should the first one let a header pass: the user it runs as. As root, the mutant, it reads all."""
    wall = place / "wall"
    wall.mkdir(mode=0o711)
    kept = wall / "secret"
    kept.write_bytes(SECRET)
    kept.chmod(0o600)
    unguarded(monkeypatch)
    for number, uid in ((1, HELPER), (2, None)):
        storage = DirectoryStorage(Options(directory=str(place / f"pool{number}"), helper_uid=uid))
        if uid is not None:
            with pytest.raises(DriverError, match="Permission denied"):
                disk(storage, backed(str(kept)), "qcow2")
        else:
            assert disk(storage, backed(str(kept)), "qcow2").startswith(SECRET[:64])


@pytest.mark.real
def test_a19_a_bomb_is_stopped_by_its_limits(storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small image whose disk unpacks to more than the file may become: it ends with a reason, and leaves nothing."""
    monkeypatch.setattr(
        "nubila.drivers.storage.directory_files.qemu_img.convert",
        lambda *a: qemu_img_driver.run(
            ["convert", "-f", a[1], "-O", a[3], "-S", "0", str(a[0]), str(a[2])], a[4], file_bytes=1 << 20
        ),
    )
    with pytest.raises(DriverError, match="converting the image"):
        disk(storage, qcow2.empty(64 << 20), "qcow2")
    assert storage.observe().volumes == ()
    assert not list(storage._layout.tmp.iterdir())
