"""What an image file claims about itself, read from its first bytes. Pure: the caller brings the bytes.

The control plane calls it when an image is uploaded, the storage driver before it uses one. Only what is known to be
harmless passes: an image that names another file (backing file, data file) could make the host read that file for a
guest, and `qemu-img info` on such an image already opens it. A raw image has no header: it is passed on as raw always,
so that a qcow2 header inside of it stays data.
"""

from __future__ import annotations

import struct

import msgspec

from nubila.drivers.image_store import tar

HEAD_BYTES = 64 << 10  # so much of the file is enough to judge it
MAX_VIRTUAL_BYTES = 64 << 40
TREE_BYTES = 64 << 20  # what a file system needs beside its files, with a part of their size
_QCOW2 = struct.Struct(">4sIQIIQIIQQIIQ")  # version 2; version 3 goes on
_QCOW2_V3 = struct.Struct(">QQQII")
_MAGIC = b"QFI\xfb"
_ISO_AT = 16 * 2048
_COMPRESSION_BIT, _EXTENDED_L2_BIT = 1 << 3, 1 << 4
_AUTOCLEAR_RAW_EXTERNAL = 1 << 1
_EXTENSION_END = 0
_EXTENSION_WORDS = {
    0xE2792ACA: "names a backing format",
    0x44415441: "names an external data file",
    0x0537BE77: "is encrypted",
}


class BadImage(ValueError):
    """The image cannot be used; the text says why, for its owner."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    format: str
    virtual_bytes: int  # as the guest will see the disk; of an archive: what its files need


def inspect(head: bytes, declared: str, size_bytes: int) -> Header:
    """The header of an image declared as one of these, or BadImage. `head`: the first HEAD_BYTES, or all of it."""
    if size_bytes == 0:
        raise BadImage("the image is empty")
    match declared:
        case "raw":
            return Header(format="raw", virtual_bytes=-(-size_bytes // 512) * 512)
        case "qcow2":
            return _qcow2(head, size_bytes)
        case "iso":
            return _iso(head, size_bytes)
        case "tar":
            return _tar(head, size_bytes)
        case _:
            raise BadImage(f"the format {declared!r} is not supported; use qcow2, raw, iso or tar")


def _tar(head: bytes, size_bytes: int) -> Header:
    """The root file system of a container. Each member is looked at when it is unpacked."""
    if not tar.begins(head):
        raise BadImage("this is not a tar archive (uncompressed): its first member's header is missing")
    need = size_bytes + size_bytes // 8 + TREE_BYTES
    if need > MAX_VIRTUAL_BYTES:
        raise BadImage("the archive is too large")
    return Header(format="tar", virtual_bytes=need)


def _iso(head: bytes, size_bytes: int) -> Header:
    """An ISO 9660 file system whose first volume descriptor says that all of it came."""
    descriptor = head[_ISO_AT : _ISO_AT + 2048]
    if len(descriptor) < 2048 or descriptor[:7] != b"\x01CD001\x01":
        raise BadImage("this is not an ISO image: its primary volume descriptor is missing")
    blocks, blocks_again = struct.unpack("<I", descriptor[80:84])[0], struct.unpack(">I", descriptor[84:88])[0]
    block, block_again = struct.unpack("<H", descriptor[128:130])[0], struct.unpack(">H", descriptor[130:132])[0]
    if (blocks, block) != (blocks_again, block_again) or block not in (512, 1024, 2048):
        raise BadImage("the ISO image's volume descriptor contradicts itself")
    if blocks * block > size_bytes:
        raise BadImage(f"the ISO image is cut off: it says {blocks * block} bytes, and {size_bytes} came")
    return Header(format="iso", virtual_bytes=-(-size_bytes // 2048) * 2048)


def _qcow2(head: bytes, size_bytes: int) -> Header:
    if len(head) < _QCOW2.size or not head.startswith(_MAGIC):
        raise BadImage("this is not a qcow2 image: its magic number is missing")
    (_, version, backing_offset, backing_size, cluster_bits, virtual_bytes, crypt, l1_size, l1_offset, ref_offset,
     ref_clusters, snapshots, _) = _QCOW2.unpack_from(head)  # fmt: skip
    if version not in (2, 3):
        raise BadImage(f"qcow2 version {version} is not supported")
    if backing_offset or backing_size:
        raise BadImage("the image has a backing file; convert it to one that stands alone")
    if crypt:
        raise BadImage("the image is encrypted")
    if snapshots:
        raise BadImage("the image has internal snapshots; remove them first")
    if not 9 <= cluster_bits <= 21:
        raise BadImage("the image's cluster size is not valid")
    if not 0 < virtual_bytes <= MAX_VIRTUAL_BYTES:
        raise BadImage(f"the image's virtual size of {virtual_bytes} bytes is not acceptable")
    extended = _features(head) if version == 3 else False
    _sizes(virtual_bytes, cluster_bits, extended, l1_size, size_bytes, (l1_offset, ref_offset), ref_clusters)
    _extensions(head, version)
    return Header(format="qcow2", virtual_bytes=virtual_bytes)


def _features(head: bytes) -> bool:
    """Whether the image has extended L2 entries; BadImage for what we do not know or want."""
    if len(head) < _QCOW2.size + _QCOW2_V3.size:
        raise BadImage("the image's header is cut off")
    incompatible, _, autoclear, refcount_order, header_bytes = _QCOW2_V3.unpack_from(head, _QCOW2.size)
    if incompatible & 1 << 2 or autoclear & _AUTOCLEAR_RAW_EXTERNAL:
        raise BadImage("the image keeps its data in another file")
    if incompatible & 0b11:
        raise BadImage("the image is marked as damaged or was not closed; repair it first")
    if incompatible & ~(_COMPRESSION_BIT | _EXTENDED_L2_BIT):
        raise BadImage("the image needs features that are not supported")
    if refcount_order > 6 or not 104 <= header_bytes <= 4096 or header_bytes % 8:
        raise BadImage("the image's header is not valid")
    return bool(incompatible & _EXTENDED_L2_BIT)


def _sizes(
    virtual_bytes: int,
    cluster_bits: int,
    extended: bool,
    l1_size: int,
    size_bytes: int,
    offsets: tuple[int, int],
    ref_clusters: int,
) -> None:
    """The tables must fit what they describe and lie inside of the file: a small file may not cost much memory."""
    cluster = 1 << cluster_bits
    l2_covers = cluster // (16 if extended else 8) * cluster
    if l1_size > 2 * -(-virtual_bytes // l2_covers) + cluster // 8:
        raise BadImage("the image's L1 table is larger than its disk needs")
    for offset in offsets:
        if offset % cluster or not cluster <= offset < size_bytes:
            raise BadImage("a table of the image lies outside of the file")
    if offsets[0] + 8 * l1_size > size_bytes + cluster or offsets[1] + ref_clusters * cluster > size_bytes + cluster:
        raise BadImage("a table of the image reaches over the end of the file")


def _extensions(head: bytes, version: int) -> None:
    at = int.from_bytes(head[100:104], "big") if version == 3 else _QCOW2.size
    while at + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, at)
        if kind == _EXTENSION_END:
            return
        if kind in _EXTENSION_WORDS:
            raise BadImage(f"the image {_EXTENSION_WORDS[kind]}")
        at += 8 + -(-length // 8) * 8
    raise BadImage("the image's header extensions do not end")
