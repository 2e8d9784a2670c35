"""What may become part of a file's or an object's name, and nothing else may. Pure."""

from __future__ import annotations

import re

from nubila.drivers import DriverError

SHA256 = re.compile(r"[0-9a-f]{64}")
UPLOAD_ID = re.compile(r"img-[0-9a-z]{26}")


def check_sha256(sha256: str) -> str:
    if not SHA256.fullmatch(sha256):
        raise DriverError("this is not a SHA-256 in lower-case hexadecimal", again=False)
    return sha256


def check_upload_id(upload_id: str) -> str:
    if not UPLOAD_ID.fullmatch(upload_id):
        raise DriverError("this is not the id of an image", again=False)
    return upload_id
