"""What a root file system in a tar archive holds, member by member, by a reader of our own: an archive is a stranger's text.

The storage driver unpacks by it, the control plane looks at the first member when an image is uploaded. Only what
cannot lead the host anywhere passes: no absolute paths, no '..', no links out of the root, no devices. Lengths that an
archive claims are bounded before anything is read by them. Pure but for reading the file that the caller opened.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

BLOCK = 512
MEMBERS_MAX = 1_000_000
PATH_MAX = 4096
DEPTH_MAX = 100
NAME_MAX = 255
_EXTENSION_MAX = 256 << 10  # of a long name or a list of attributes
_ID_MAX = 65535  # a container has so many user and group ids
_USTAR = b"ustar"
# type flag -> kind; what is not here does not pass
_KINDS: dict[bytes, str] = {b"0": "file", b"\0": "file", b"7": "file", b"1": "hard", b"2": "link", b"5": "directory"}
_REFUSED: dict[bytes, str] = {b"3": "a character device", b"4": "a block device", b"6": "a named pipe"}


class BadArchive(ValueError):
    """The archive cannot be used; the text says why, for its owner."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """`path` is relative, without '.' and '..'; '' is the root itself. The bytes of a file follow in the archive."""

    kind: str  # file | directory | link | hard
    path: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    target: str = ""  # of a link: as it stands there; of a hard link: a path like `path`


def begins(head: bytes) -> bool:
    """Whether a file begins with the header of an archive's member."""
    return len(head) >= BLOCK and head[257:262] == _USTAR and _sum_holds(head[:BLOCK])


def members(file: BinaryIO) -> Iterator[Member]:
    """Each member in order; the file stands at its bytes. The caller may read none, some or all of them."""
    count, more = 0, dict[str, str]()
    while True:
        header = file.read(BLOCK)
        if header == bytes(BLOCK):
            return
        if not begins(header):
            raise BadArchive("the archive is damaged or cut off: where a member's header should be there is none")
        flag, at = header[156:157], file.tell()
        size = int(more.pop("size", "")) if "size" in more and flag in _KINDS else _number(header[124:136])
        if flag in (b"x", b"g", b"L", b"K"):
            more |= _extension(file, flag, size) if flag != b"g" else {}
            file.seek(at + _padded(size))
            continue
        count += 1
        if count > MEMBERS_MAX:
            raise BadArchive(f"the archive has more than {MEMBERS_MAX} members")
        member = _member(header, flag, size, more)
        more = {}
        yield member
        file.seek(at + _padded(member.size))


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _member(header: bytes, flag: bytes, size: int, more: dict[str, str]) -> Member:
    name = more.get("path") or _name(header)
    if flag not in _KINDS:
        raise BadArchive(f"'{_shown(name)}' is {_REFUSED.get(flag, 'of a kind that is not known')}; leave it out")
    kind, path = _KINDS[flag], _path(name)
    uid, gid = (
        int(more[k]) if k in more else _number(header[a:b]) for k, a, b in (("uid", 108, 116), ("gid", 116, 124))
    )
    if not (0 <= uid <= _ID_MAX and 0 <= gid <= _ID_MAX):
        raise BadArchive(
            f"'{_shown(name)}' belongs to user {uid} and group {gid}; a container has none above {_ID_MAX}"
        )
    target = more.get("linkpath") or _text(header[157:257])
    if kind == "hard":
        target = _path(target)
    if kind == "link":
        _check_link(path, target)
    if kind != "directory" and not path:
        raise BadArchive("the archive's root is not a directory")
    return Member(
        kind=kind,
        path=path,
        mode=_number(header[100:108]) & 0o7777,
        uid=uid,
        gid=gid,
        mtime=max(0, min(_number(header[136:148]), 1 << 33)),
        size=size if kind == "file" else 0,
        target=target,
    )


def _path(name: str) -> str:
    """Relative and plain, or BadArchive."""
    if name.startswith("/"):
        raise BadArchive(f"'{_shown(name)}' is an absolute path")
    parts = [p for p in name.split("/") if p not in ("", ".")]
    if ".." in parts:
        raise BadArchive(f"'{_shown(name)}' leads out of the root")
    if len(name) > PATH_MAX or len(parts) > DEPTH_MAX or any(len(p.encode()) > NAME_MAX for p in parts):
        raise BadArchive(f"'{_shown(name)}' is too long a path")
    return "/".join(parts)


def _check_link(path: str, target: str) -> None:
    """An absolute target is meant inside of the root; a relative one must not climb over it."""
    if not target or len(target.encode()) > PATH_MAX:
        raise BadArchive(f"the link '{_shown(path)}' leads nowhere")
    if not target.startswith("/"):
        at = posixpath.dirname(path).split("/") if "/" in path else []
        depth = len(at)
        for part in target.split("/"):
            depth += -1 if part == ".." else 0 if part in ("", ".") else 1
            if depth < 0:
                raise BadArchive(f"the link '{_shown(path)}' leads out of the root")


def _extension(file: BinaryIO, flag: bytes, size: int) -> dict[str, str]:
    if not 0 < size <= _EXTENSION_MAX:
        raise BadArchive("a member's extended header is too large")
    data = file.read(size)
    if len(data) < size:
        raise BadArchive("the archive is cut off")
    if flag in (b"L", b"K"):
        return {"path" if flag == b"L" else "linkpath": _text(data)}
    found = {}
    while data:
        length, _, _ = data.partition(b" ")
        if not (length.isdigit() and len(length) < 8 and len(length) + 2 < int(length) <= len(data)):
            raise BadArchive("a member's extended header is not valid")
        record, data = data[: int(length)], data[int(length) :]
        key, equals, value = record[len(length) + 1 : -1].partition(b"=")
        if not equals or record[-1:] != b"\n":
            raise BadArchive("a member's extended header is not valid")
        if key in (b"path", b"linkpath"):
            found[key.decode()] = _text(value)
        elif key in (b"size", b"uid", b"gid"):
            if not (value.isdigit() and len(value) <= 15):
                raise BadArchive("a number in a member's extended header is not valid")
            found[key.decode()] = value.decode()
    return found


def _name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    text = field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    return text


def _number(field: bytes) -> int:
    """Octal text, or binary where that is too short."""
    if field[:1] in (b"\x80", b"\xff"):
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    digits = field.split(b"\0", 1)[0].strip()
    if digits and not all(c in b"01234567" for c in digits):
        raise BadArchive("a number in a member's header is not valid")
    return int(digits or b"0", 8)


def _sum_holds(header: bytes) -> bool:
    try:
        return _number(header[148:156]) == sum(header[:148]) + 8 * 0x20 + sum(header[156:])
    except BadArchive:
        return False


def _shown(name: str) -> str:
    """Fit for a message: printable, and not long."""
    return "".join(c if c.isprintable() else "?" for c in name[:120])
