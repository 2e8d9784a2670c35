"""The box in which secrets are stored: AES-256-GCM under a key that is not in the database. For whoever keeps secrets.

Pure, given key and nonce. The id of the row is bound in, so that a box moved to another row does not open.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nubila.access import keyfile
from nubila.errors import NubilaError

KEY_BYTES = 32
NONCE_BYTES = 12
LAYOUT = b"nubila vault 1:"  # bound in before the row's id, so that a later layout cannot be taken for this one


class Unopenable(NubilaError):
    """A stored secret cannot be opened."""

    fix = "Your operator must put back the vault's key file that this database was used with."


class VaultBox:
    def __init__(self, key: bytes):
        self._cipher = AESGCM(key)

    def seal(self, row_id: str, secret: bytes, nonce: bytes) -> tuple[bytes, bytes]:
        """(nonce, box), both to be stored. `nonce`: random, never twice with the same key."""
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"the nonce must have {NONCE_BYTES} bytes")
        return nonce, self._cipher.encrypt(nonce, secret, LAYOUT + row_id.encode())

    def unseal(self, row_id: str, nonce: bytes, box: bytes) -> bytes:
        try:
            return self._cipher.decrypt(nonce, box, LAYOUT + row_id.encode())
        except (InvalidTag, ValueError):
            raise Unopenable(inside="wrong key, or moved, or altered") from None


def open_or_create(file: Path, entropy: bytes) -> VaultBox:
    """The vault's box by its key file (0600); `entropy` becomes the key when there is none yet."""
    if len(entropy) != KEY_BYTES:
        raise ValueError(f"{KEY_BYTES} random bytes are needed")
    if not file.exists():
        keyfile.publish(file, entropy, 0o600)
    key = file.read_bytes()
    if len(key) != KEY_BYTES:
        raise ValueError(f"{file} must hold {KEY_BYTES} bytes")
    return VaultBox(key)
