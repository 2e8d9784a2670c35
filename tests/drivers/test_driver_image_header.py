"""Our own reader of image headers: what it lets pass, and what must never reach another program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from driver_images import make_qcow2, patched, qemu_img, with_extension
from hypothesis import given, settings
from hypothesis import strategies as st

from nubila.drivers.image_store.header import HEAD_BYTES, BadImage, Header, inspect


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_qcow2(tmp_path_factory.mktemp("image") / "good.qcow2").read_bytes()


def look(image: bytes, declared: str = "qcow2") -> Header:
    return inspect(image[:HEAD_BYTES], declared, len(image))


@pytest.mark.parametrize(
    "options",
    [(), ("-o", "compat=0.10"), ("-o", "cluster_size=4k"), ("-o", "cluster_size=2M"), ("-o", "compression_type=zstd"),
     ("-o", "extended_l2=on"), ("-o", "lazy_refcounts=on"), ("-o", "preallocation=metadata")],
)  # fmt: skip
@pytest.mark.parametrize("size", ["512", "8M", "10G"])
def test_what_qemu_img_makes_passes(tmp_path: Path, options: tuple[str, ...], size: str) -> None:
    path = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", *options, path, size)
    with path.open("rb") as file:
        header = inspect(file.read(HEAD_BYTES), "qcow2", path.stat().st_size)
    assert header == Header(format="qcow2", virtual_bytes={"512": 512, "8M": 8 << 20, "10G": 10 << 30}[size])


def test_converted_and_compressed_passes(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "a").write_bytes(good)
    qemu_img("convert", "-f", "qcow2", "-O", "qcow2", "-c", tmp_path / "a", tmp_path / "b")
    assert look((tmp_path / "b").read_bytes()).virtual_bytes == 8 << 20


EVIL: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "backing file": (lambda g: patched(g, 8, ">QI", 200, 11), "backing file"),
    "backing file without a name": (lambda g: patched(g, 8, ">QI", 0, 11), "backing file"),
    "backing format": (lambda g: with_extension(g, 0xE2792ACA, b"raw"), "backing format"),
    "data file by feature": (lambda g: patched(g, 72, ">Q", 1 << 2), "another file"),
    "data file by autoclear": (lambda g: patched(g, 88, ">Q", 1 << 1), "another file"),
    "data file by name": (lambda g: with_extension(g, 0x44415441, b"/etc/shadow"), "data file"),
    "encrypted": (lambda g: patched(g, 32, ">I", 2), "encrypted"),
    "crypto header": (lambda g: with_extension(g, 0x0537BE77, bytes(16)), "encrypted"),
    "corrupt": (lambda g: patched(g, 72, ">Q", 1 << 1), "damaged"),
    "unknown feature": (lambda g: patched(g, 72, ">Q", 1 << 40), "features"),
    "version": (lambda g: patched(g, 4, ">I", 4), "version"),
    "no magic": (lambda g: b"QFI " + g[4:], "magic"),
    "empty disk": (lambda g: patched(g, 24, ">Q", 0), "virtual size"),
    "enormous disk": (lambda g: patched(g, 24, ">Q", 1 << 60), "virtual size"),
    "large L1 table": (lambda g: patched(g, 36, ">I", 1 << 30), "L1 table"),
    "L1 table outside": (lambda g: patched(g, 40, ">Q", 1 << 40), "outside"),
    "L1 table over the header": (lambda g: patched(g, 40, ">Q", 0), "outside"),
    "refcount table reaches out": (lambda g: patched(g, 56, ">I", 1 << 20), "reaches"),
    "cluster size": (lambda g: patched(g, 20, ">I", 40), "cluster"),
    "snapshots": (lambda g: patched(g, 60, ">I", 1), "snapshots"),
    "cut off": (lambda g: g[:90], "cut off"),
    "shorter still": (lambda g: g[:40], "magic"),
}


@pytest.mark.parametrize("what", EVIL)
def test_evil_is_refused_in_words(good: bytes, what: str) -> None:
    change, words = EVIL[what]
    assert look(good).format == "qcow2"
    with pytest.raises(BadImage, match=words):
        look(change(good))


def test_raw_stays_raw_whatever_it_says(good: bytes) -> None:
    evil = patched(good, 8, ">QI", 200, 11)
    assert look(evil, "raw") == Header(format="raw", virtual_bytes=len(evil))
    assert inspect(b"x", "raw", 513).virtual_bytes == 1024
    for declared, image in (("raw", b""), ("vmdk", good), ("", good)):
        with pytest.raises(BadImage):
            look(image, declared)


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 200), junk=st.binary(min_size=1, max_size=16), length=st.integers(0, 400))
def test_any_bytes_are_judged_or_refused(good: bytes, at: int, junk: bytes, length: int) -> None:
    for image in (good[:at] + junk + good[at + len(junk) :], good[:length]):
        try:
            header = look(image)
        except BadImage:
            continue
        assert header.virtual_bytes > 0
        assert image[8:20] == bytes(12)
