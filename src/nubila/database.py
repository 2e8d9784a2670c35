"""`nubila database`: what the one who operates the machine does to the database itself, beside no API."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from datetime import datetime

from nubila import config
from nubila.config import Settings
from nubila.errors import NubilaError
from nubila.model import ids
from nubila.store.adopt import adopt
from nubila.store.database import Database
from nubila.store.retention import trim

HELP = """Usage: nubila database adopt
       nubila database trim TIME

adopt       after a restore or a load: begin a new fabric epoch. Readers of the change log start anew, nodes ask for all
            that they shall have, and VMs that the database does not know are left alone and shown. The control plane
            restarts itself.
trim TIME   forget changes before TIME (2026-01-31T00:00:00Z), but for the newest of each object that lives; seals stay.

Both work on the database of the installation that 'make up' made, as its user and with its settings in the environment;
docs/operating.md shows the whole line.
"""


def main(argv: list[str]) -> int:
    if not argv or {"-h", "--help"} & set(argv):
        print(HELP, end="")
        return 0 if argv else 2
    try:
        before = datetime.fromisoformat(argv[1]) if argv[0] == "trim" and len(argv) == 2 else None
    except ValueError:
        before = None
    if argv != ["adopt"] and (before is None or before.tzinfo is None):
        print(HELP, end="", file=sys.stderr)
        return 2
    try:
        print(asyncio.run(_run(config.load(), before)))
    except NubilaError as e:
        print(f"{e.detail}\n{e.how}", file=sys.stderr)
        return 1
    return 0


async def _run(settings: Settings, before: datetime | None) -> str:
    database = await Database.open(host=str(settings.pg_socket_dir), size=2)
    try:
        if before is None:
            call_id = ids.uuid7(time.time_ns() // 1_000_000, secrets.randbits(74))
            adopted = await adopt(database, call_id)
            return f"fabric epoch {adopted.fabric_epoch} begins; {adopted.sealed} changes were sealed as the last before it"
        trimmed = await trim(database, before)
        if trimmed.since is None:
            return "nothing was trimmed: no sealed change is that old"
        return f"{trimmed.gone} changes went, {trimmed.kept} stay as baselines; the log is whole since {trimmed.since.isoformat()}"
    finally:
        await database.close()
