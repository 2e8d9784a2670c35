"""Bearer tokens: made, read and compared. The secret is shown once and never stored; only its SHA-256 is.

Randomness comes in as an argument. A token names its plane, so that a wrong one can be told from a mistyped one by its
holder, but no API tells them apart: both are answered as unknown.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from enum import StrEnum
from uuid import UUID

import msgspec

from nubila.model import ids

ENTROPY_BYTES = 32


class Kind(StrEnum):
    USER = "u"
    OPERATOR = "o"
    JOIN = "j"  # enrols one node, and pins the CA
    FIRST = "f"  # makes the first operator


# kind -> whose typed text carries the id
ID_KIND: dict[Kind, str] = {
    Kind.USER: "token",
    Kind.OPERATOR: "token",
    Kind.JOIN: "join_token",
    Kind.FIRST: "token",
}

_TEXT = re.compile(r"nb([uojf])_([0-9a-hjkmnp-tv-z]{26})_([A-Za-z0-9_-]{43})(?:_([0-9a-f]{64}))?")


class Token(msgspec.Struct, frozen=True):
    kind: Kind
    id: UUID
    secret: str
    ca_sha256: str | None = None  # join tokens

    def __repr__(self) -> str:  # a token in a traceback must not show its secret
        return f"Token({self.kind!r}, {self.id})"


def make(kind: Kind, token_id: UUID, entropy: bytes, *, ca_sha256: str | None = None) -> tuple[str, bytes]:
    """The token's text, to be shown once, and the SHA-256 of its secret, to be stored."""
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"{ENTROPY_BYTES} random bytes are needed")
    if (kind is Kind.JOIN) != (ca_sha256 is not None):
        raise ValueError("a join token, and no other, carries the fingerprint of the CA")
    secret = base64.urlsafe_b64encode(entropy).rstrip(b"=").decode()
    id_text = ids.text(ID_KIND[kind], token_id).partition("-")[2]
    return "_".join(filter(None, (f"nb{kind}", id_text, secret, ca_sha256))), digest(secret)


def parse(text: str) -> Token | None:
    """The parts of a token, or None when the text is not one."""
    m = _TEXT.fullmatch(text)
    if m is None:
        return None
    kind = Kind(m[1])
    token_id = ids.parse(ID_KIND[kind], f"{ids.PREFIX[ID_KIND[kind]]}-{m[2]}")
    if token_id is None or (kind is Kind.JOIN) != (m[4] is not None):
        return None
    return Token(kind, token_id, m[3], m[4])


def digest(secret: str) -> bytes:
    """Plain SHA-256: the secret has 256 random bits, so there is nothing to guess and nothing to slow down."""
    return hashlib.sha256(secret.encode()).digest()


def fits(secret: str, stored_sha256: bytes) -> bool:
    """In constant time."""
    return hmac.compare_digest(digest(secret), stored_sha256)
