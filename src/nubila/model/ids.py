"""Identity: UUIDv7 in the database, typed text ('vm-...') outside.

Randomness and time come in as arguments, so that a draft made twice from the same seed is the same draft.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from uuid import UUID

# kind -> prefix of its text form. A prefix in a log line names the table.
PREFIX: dict[str, str] = {
    "project": "prj",
    "user": "usr",
    "member": "mbr",
    "operator": "opr",
    "token": "tok",
    "keypair": "key",
    "quota": "quo",
    "node": "node",
    "join_token": "join",
    "virt_method": "vmt",
    "flavor": "flv",
    "image": "img",
    "volume": "vol",
    "snapshot": "snap",
    "network": "net",
    "subnet": "sub",
    "security_group": "sg",
    "port": "port",
    "address": "adr",
    "vm": "vm",
    "attachment": "att",
    "operation": "op",
    "allocation": "alc",
    "decision": "dec",
    "secret": "sec",
    "plan": "plan",
    "call": "call",
    "question": "qst",
    "drift": "drf",
    "share": "shr",
}
KIND = {prefix: kind for kind, prefix in PREFIX.items()}

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32, lower case
_PAIRS = [a + b for a in ALPHABET for b in ALPHABET]
_DIGITS = str.maketrans(ALPHABET, "0123456789abcdefghijklmnopqrstuv")  # as int() reads base 32
SHAPE = r"[a-z]{2,4}-[0-7][0-9a-hjkmnp-tv-z]{25}"  # of any kind; no name may look like it
_TEXT = re.compile(r"([a-z]{2,4})-([0-7][0-9a-hjkmnp-tv-z]{25})")
_SHAPE = re.compile(SHAPE)

Mint = Callable[[], UUID]


def uuid7(now_ms: int, entropy: int) -> UUID:
    """RFC 9562 version 7 from milliseconds since the epoch and at least 74 random bits."""
    high = (now_ms & 0xFFFFFFFFFFFF) << 80
    return UUID(int=high | 0x7 << 76 | ((entropy >> 62) & 0xFFF) << 64 | 0b10 << 62 | entropy & 0x3FFFFFFFFFFFFFFF)


def text(kind: str, value: UUID) -> str:
    """The typed text of an id, for example 'vm-01k9...'."""
    return PREFIX[kind] + "-" + _digits(value.int)


@lru_cache(maxsize=4096)  # an id is written several times while its object is made and shown
def _digits(n: int) -> str:
    return "".join([_PAIRS[(n >> shift) & 1023] for shift in range(120, -1, -10)])


def parse(kind: str, value: str) -> UUID | None:
    """The id in a typed text of exactly this kind, or None when it is not one (a name, perhaps)."""
    m = _TEXT.fullmatch(value)
    if m is None or m[1] != PREFIX[kind]:
        return None
    return UUID(int=int(m[2].translate(_DIGITS), 32))


def shaped(value: str) -> bool:
    """Whether it looks like an id, of whatever kind, so that it cannot be a name."""
    return _SHAPE.fullmatch(value) is not None


def host_handle(project_id: UUID, node_id: UUID) -> str:
    """A node as a tenant sees it: tells whether two of a project's vms share a host, and nothing else."""
    return "host-" + hashlib.sha256(project_id.bytes + node_id.bytes).hexdigest()[:12]


def short(value: UUID, length: int = 11) -> str:
    """The last characters of an id: random, so distinct within an installation; for names of 15 characters."""
    n = value.int
    return "".join(ALPHABET[(n >> shift) & 31] for shift in range(5 * (length - 1), -1, -5))
