"""Files of keys and certificates: written whole or not at all, and never over one that is there."""

from __future__ import annotations

import os
from pathlib import Path


def publish(file: Path, content: bytes, mode: int) -> None:
    """Writes the file, unless it is there already. Of processes that start together, one wins."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(handle, mode)  # whatever the umask is
        os.write(handle, content)
        os.fsync(handle)
        os.link(draft, file)
    except FileExistsError:
        return  # another process was first
    finally:
        os.close(handle)
        draft.unlink(missing_ok=True)
